"""Cohort: several different networks trained at once, each taught by their ensemble."""

import re
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from xkd_keras.devices.cluster import cluster
from xkd_keras.distillation import losses, members, optimizers, teachers
from xkd_keras.distillation.optimizers import CohortOptimizer
from xkd_keras.distillation.schedules import Constant
from xkd_keras.errors import InputError

_NON_FINITE = "non-finite loss: "
ON_NONFINITE = ("stop", "skip")


@keras.saving.register_keras_serializable("xkd_keras")
class Cohort(keras.Model):
    """Peers that see the same batch and learn from the labels and the ensemble of their logits.

    With logits z_i of peer i, labels y, temperature T and the weight lambda of step t (after MCOD,
    Gao et al., Entropy 2019, 21(4), 357):

    L_i = CE(y, z_i) + lambda(t) T^2 KL(stop_gradient(softmax(z_T / T)) || softmax(z_i / T))

    and each step minimises sum_i L_i. The teacher z_T is constant to the gradient, so no peer's
    loss reaches another peer.

    Args:
        peers: Built Keras models, images [B, H, W, C] -> logits [B, classes]; a dict by name, or a
            list whose models' names differ. They are trained in place.
        schedule: lambda(t): a number, or a function of the step as those of `xkd_keras.distillation.schedules`.
        teacher: A name in `xkd_keras.distillation.teachers` (`mean`, `leave_one_out`, ...), or a function or
            Keras layer as described there. What a layer learns (`Gate`) is learned too.
        weights: The peers' weights in the ensemble, by name; equal where None. Only ratios matter.
        temperature: T > 0 softens both sides of the KL.

    A Cohort is saved and loaded as any Keras model; functions of your own given as teacher or
    schedule must be registered with Keras, or named in `custom_objects` when loading.

    Raises:
        InputError: No peers, a name twice, peers that disagree on the number of classes, a bad
            teacher, weight or temperature.
    """

    def __init__(
        self,
        peers: Mapping[str, keras.Model] | Sequence[keras.Model],
        schedule: float | Callable = 1.0,
        teacher: str | Callable = "mean",
        weights: Mapping[str, float] | None = None,
        temperature: float = 3.0,
        name: str = "cohort",
    ):
        super().__init__(name=name)
        self.peers = members.named(peers)
        self.schedule = schedule if callable(schedule) else Constant(float(schedule))
        self.teacher = teacher
        self._teacher = teachers.get(teacher)
        if not temperature > 0:
            raise InputError(f"temperature: received {temperature}; valid: a number above 0.")
        self.temperature = temperature
        self.ensemble_weights = members.shares(self.peers, weights)
        self.classes = members.classes(self.peers)
        if isinstance(self._teacher, keras.layers.Layer) and not self._teacher.built:
            self._teacher.build((len(self.peers), None, self.classes))
        self.trackers = {name: keras.metrics.Mean(name=name) for name in self._metric_names()}
        self.built = True  # the peers are

    def compile(self, optimizer="sgd", on_nonfinite="stop", **kwargs):
        """Set how to train.

        Where a peer computes in float16, the loss is scaled up for its gradients not to vanish, and
        a peer whose gradients overflow sits that step out (Micikevicius et al., 2018).

        Args:
            optimizer: A Keras optimizer or its name, copied for each peer, or a dict of them by the
                peer's name (and `ensemble`, for a teacher that learns).
            on_nonfinite: What a loss or gradient does that is not finite: `stop` raises, `skip`
                leaves that peer, and it only, as it was before the step, out of the others'
                teacher too, and counts the step in the metric NAME_skipped.
            **kwargs: As `keras.Model.compile` (`steps_per_execution`, `run_eagerly`, ...).
                `jit_compile` is off unless asked for: on CPUs XLA makes these networks slower.

        Raises:
            InputError: A loss or metrics are given (a Cohort has its own), or an unknown
                on_nonfinite.
        """
        own = {"loss", "metrics", "weighted_metrics", "loss_weights"} & set(kwargs)
        if own:
            raise InputError(f"{min(own)}: a Cohort has its own; valid: to leave it out.")
        if on_nonfinite not in ON_NONFINITE:
            raise InputError.unknown("on_nonfinite", on_nonfinite, ON_NONFINITE)
        self.skips = on_nonfinite == "skip"
        scaled = any(members.computes_in_half(peer) for peer in self.peers.values())
        self.may_skip = self.skips or scaled
        if self.may_skip:
            for name in self.peers:
                self.trackers.setdefault(f"{name}_skipped", keras.metrics.Sum(f"{name}_skipped"))
        kwargs.setdefault("jit_compile", False)
        if not isinstance(optimizer, CohortOptimizer):
            optimizer = CohortOptimizer(optimizers.each(optimizer, self._variables()))
        optimizer.build_peers(self._variables(), self.may_skip, scaled)
        super().compile(optimizer=optimizer, auto_scale_loss=False, **kwargs)

    def get_compile_config(self):
        optimizer = keras.saving.serialize_keras_object(self.optimizer)
        return {"optimizer": optimizer, "on_nonfinite": "skip" if self.skips else "stop"}

    def compile_from_config(self, config):
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"])
        self.compile(optimizer, config["on_nonfinite"])

    def call(self, images, training=False):
        """Return the logits [B, classes] of every peer by name, and of the `ensemble`."""
        logits = self._logits(images, training)
        together = losses.ensemble(logits, self.ensemble_weights)
        return {**dict(zip(self.peers, tf.unstack(logits), strict=True)), "ensemble": together}

    def train_step(self, data):
        """One step of every peer on one batch (images, labels[, weights]) -> running metrics."""
        images, labels, weights = _unpack(data)
        strength = self.schedule(self.optimizer.iterations)
        variables, before = self._variables(), self._statistics()
        with tf.GradientTape() as tape:
            logits = self._logits(images, training=True)
            labelled, distilled = self._terms(images, labels, logits)
            total = tf.reduce_sum(_mean(labelled + strength * distilled, weights))
            # Keras sums the replicas' gradients; each has the mean over its own part of the batch.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            loss = self.optimizer.scale_loss((total + sum(self.losses)) / replicas)
        gradients = tape.gradient(loss, variables)
        terms = _mean(labelled, weights), _mean(distilled, weights)
        if not self.skips and not self.jit_compile:  # XLA has no strings to say it in
            self._stop_if_not_finite(*terms, strength)
        fine = self._fine(gradients, *terms) if self.may_skip else None
        self.optimizer.apply_peers(gradients, variables, fine)
        self._put_back(before, fine)
        return self._update_metrics(labels, logits, (labelled, distilled), strength, weights, fine)

    def test_step(self, data):
        """The same metrics on one batch, without learning; weight 0 leaves an image out.

        The loss is here that of the labels alone: with lambda in it, it would rise and fall with
        the windows, and choosing the best epoch by it would choose among windows.
        """
        images, labels, weights = _unpack(data)
        logits = self._logits(images, training=False)
        strength = self.schedule(self.optimizer.iterations)
        terms = self._terms(images, labels, logits)
        return self._update_metrics(labels, logits, terms, strength, weights, test=True)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Do nothing, as the peers are built: Keras would add up what the replicas got unevenly."""

    def fit(self, *args, **kwargs):
        """As `keras.Model.fit`; a non-finite loss raises FloatingPointError: peer, step, lambda."""
        try:
            return super().fit(*args, **kwargs)
        except tf.errors.InvalidArgumentError as error:
            found = re.search(_NON_FINITE + r"[^\"\]]*", str(error))
            if not found:
                raise
            raise FloatingPointError(found.group()) from None

    @property
    def metrics(self):
        return list(self.trackers.values())

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "peers": serialize(self.peers),
            "schedule": serialize(self.schedule),
            "teacher": self.teacher if isinstance(self.teacher, str) else serialize(self.teacher),
            "weights": dict(zip(self.peers, self.ensemble_weights, strict=True)),
            "temperature": self.temperature,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        def deserialize(value):
            return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

        teacher = config["teacher"]
        teacher = teacher if isinstance(teacher, str) else deserialize(teacher)
        rest = {name: deserialize(config[name]) for name in ("peers", "schedule")}
        return cls(**{**config, **rest, "teacher": teacher})

    def _logits(self, images, training):
        """One forward pass of each peer -> float32 [P, B, classes]."""
        outputs = [peer(images, training=training) for peer in self.peers.values()]
        return tf.stack([tf.cast(z, tf.float32) for z in outputs])

    def _terms(self, images, labels, logits):
        """Return the cross-entropy and the unweighted distillation term: two float32 [P, B]."""
        weights = tf.constant(self.ensemble_weights)
        sound = losses.sound(logits, weights) if self.skips else logits
        taught = self._teacher(sound, weights=weights, labels=labels, images=images)
        return (
            losses.cross_entropy(labels, logits),
            losses.distillation(taught, logits, self.temperature),
        )

    def _update_metrics(self, labels, logits, terms, strength, weights, fine=None, test=False):
        labelled, distilled = terms
        shares = tf.constant(self.ensemble_weights)
        sound = losses.sound(logits, shares) if self.skips else logits
        if self.skips and not test:
            labelled, distilled = (losses.finite_or_zero(term) for term in terms)
        together = losses.ensemble(sound, shares)
        hits = losses.top1(labels, logits)
        values = {
            "loss": tf.reduce_sum(labelled + (0.0 if test else strength) * distilled, axis=0),
            "distill_weight": tf.fill(tf.shape(labels), strength),
            "agreement": losses.agreement(sound),
            "pairwise_kl": losses.pairwise_kl(sound),
            "ensemble_cross_entropy": losses.cross_entropy(labels, together),
            "ensemble_top1": losses.top1(labels, together),
        }
        for i, name in enumerate(self.peers):
            values[f"{name}_cross_entropy"] = labelled[i]
            values[f"{name}_distillation"] = distilled[i]
            values[f"{name}_top1"] = hits[i]
        for name, value in values.items():
            self.trackers[name].update_state(value, sample_weight=weights)
        if fine is not None:
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            for name in self.peers:
                skipped = 1.0 - tf.cast(fine[name], tf.float32)
                self.trackers[f"{name}_skipped"].update_state(skipped / replicas)
        return self._results()

    def _results(self):
        results = {name: tracker.result() for name, tracker in self.trackers.items()}
        if cluster.several(tf.distribute.get_strategy()):
            # Keras takes the mean over the machines along axis 0, which a scalar has not.
            return {name: result[None] for name, result in results.items()}
        return results

    def _metric_names(self):
        common = ["loss", "distill_weight", "agreement", "pairwise_kl"]
        common += ["ensemble_cross_entropy", "ensemble_top1"]
        kinds = ("cross_entropy", "distillation", "top1")
        return common + [f"{name}_{kind}" for name in self.peers for kind in kinds]

    def _variables(self):
        """Return what is trained, by the peer's name; what a teacher learns under `ensemble`."""
        found = {name: peer.trainable_variables for name, peer in self.peers.items()}
        learned = [variable for variable in self.of_teacher() if variable.trainable]
        return {**found, "ensemble": learned} if learned else found

    def of_teacher(self) -> list:
        """Return the teacher's own variables, learned or frozen; most teachers have none."""
        return getattr(self._teacher, "variables", [])

    def _statistics(self):
        """Return what a forward pass changes in each peer (moving statistics), to put it back."""
        if not self.may_skip:
            return {}
        found = {}
        for name, peer in self.peers.items():
            kept = [v for v in peer.non_trainable_variables if "float" in v.dtype]
            found[name] = [(variable, tf.identity(variable.value)) for variable in kept]
        return found

    def _put_back(self, before, fine):
        for name, pairs in before.items():
            for variable, old in pairs:
                variable.assign(tf.where(fine[name], variable.value, old))

    def _fine(self, gradients, labelled, distilled):
        """Return by name whether loss and gradients are finite on all replicas: bool scalars."""
        found = {}
        for i, name in enumerate(gradients):
            values = [g for g in gradients[name] if g is not None]
            # The teacher's own variables have no loss of their own.
            values += [labelled[i], distilled[i]] if name in self.peers else []
            found[name] = tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in values])
        bad = _over_replicas(1.0 - tf.cast(tf.stack(list(found.values())), tf.float32))
        return dict(zip(found, tf.unstack(tf.equal(bad, 0.0)), strict=True))

    def _stop_if_not_finite(self, labelled, distilled, strength):
        """Fail inside the graph: by the end of the epoch nobody could say where it began."""
        bad = ~tf.math.is_finite(tf.stack([labelled, distilled]))
        # All replicas fail, or one machine would wait for another that has stopped.
        labelled, distilled = tf.unstack(_over_replicas(tf.cast(bad, tf.float32)) > 0)
        # A peer with broken logits breaks the teacher of the others too: name the culprit only.
        bad = tf.cond(tf.reduce_any(labelled), lambda: labelled, lambda: distilled)

        def fail():
            names = tf.strings.reduce_join(tf.boolean_mask(list(self.peers), bad), separator=", ")
            step = tf.strings.as_string(self.optimizer.iterations.value)
            parts = ["peer ", names, ", step ", step, ", lambda ", tf.strings.as_string(strength)]
            message = tf.strings.join([_NON_FINITE, *parts])
            return tf.debugging.Assert(False, [message])

        tf.cond(tf.reduce_any(bad), fail, tf.no_op)


def _over_replicas(values):
    """Return the sums over the replicas."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


def _unpack(data):
    """Return images, labels int64 [B], weights [B] or None; either may come as [B, 1]."""
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank == 2 and labels.shape[-1] != 1:
        raise InputError(
            f"labels: received shape {labels.shape}; valid: class numbers [batch] (for one-hot"
            " labels: labels.argmax(-1))."
        )
    labels = tf.reshape(tf.cast(labels, tf.int64), [-1])
    return images, labels, None if weights is None else tf.reshape(weights, [-1])


def _mean(values, weights):
    """Return the mean over the batch, [..., B] -> [...], as Keras weighs examples: sum(w v) / B."""
    if weights is not None:
        values = values * tf.cast(weights, tf.float32)
    count = tf.cast(tf.shape(values)[-1], values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values, axis=-1), count)  # a replica may get none
