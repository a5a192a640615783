"""Cohort: several different networks trained at once, each taught by their ensemble."""

import re
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from xkd_keras import distill, optimizers, teachers
from xkd_keras.errors import InputError
from xkd_keras.optimizers import CohortOptimizer
from xkd_keras.schedules import Constant

_NON_FINITE = "non-finite loss: "


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
        schedule: lambda(t): a number, or a function of the step as those of `xkd_keras.schedules`.
        teacher: A name in `xkd_keras.teachers` (`mean`, `leave_one_out`, ...), or a function or
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
        self.peers = _named(peers)
        self.schedule = schedule if callable(schedule) else Constant(float(schedule))
        self.teacher = teacher
        self._teacher = teachers.get(teacher)
        if not temperature > 0:
            raise InputError(f"temperature: received {temperature}; valid: a number above 0.")
        self.temperature = temperature
        self.ensemble_weights = _shares(self.peers, weights)
        self.classes = _classes(self.peers)
        if isinstance(self._teacher, keras.layers.Layer) and not self._teacher.built:
            self._teacher.build((len(self.peers), None, self.classes))
        self.trackers = {name: keras.metrics.Mean(name=name) for name in self._metric_names()}
        self.built = True  # the peers are

    def compile(self, optimizer="sgd", **kwargs):
        """Set how to train.

        Args:
            optimizer: A Keras optimizer or its name, copied for each peer, or a dict of them by the
                peer's name (and `ensemble`, for a teacher that learns).
            **kwargs: As `keras.Model.compile` (`steps_per_execution`, `run_eagerly`, ...).
                `jit_compile` is off unless asked for: on CPUs XLA makes these networks slower.

        Raises:
            InputError: A loss or metrics are given (a Cohort has its own), or the precision is
                mixed_float16, whose loss scaling is not supported.
        """
        own = {"loss", "metrics", "weighted_metrics", "loss_weights"} & set(kwargs)
        if own:
            raise InputError(f"{min(own)}: a Cohort has its own; valid: to leave it out.")
        if keras.config.dtype_policy().name == "mixed_float16":
            raise InputError("dtype policy: mixed_float16; valid: float32 or mixed_bfloat16.")
        kwargs.setdefault("jit_compile", False)
        if not isinstance(optimizer, CohortOptimizer):
            optimizer = CohortOptimizer(optimizers.each(optimizer, self._variables()))
        optimizer.build_peers(self._variables())
        super().compile(optimizer=optimizer, **kwargs)

    def get_compile_config(self):
        return {"optimizer": keras.saving.serialize_keras_object(self.optimizer)}

    def compile_from_config(self, config):
        self.compile(optimizer=keras.saving.deserialize_keras_object(config["optimizer"]))

    def call(self, images, training=False):
        """Return the logits [B, classes] of every peer by name, and of the `ensemble`."""
        logits = self._logits(images, training)
        together = distill.ensemble(logits, self.ensemble_weights)
        return {**dict(zip(self.peers, tf.unstack(logits), strict=True)), "ensemble": together}

    def train_step(self, data):
        """One step of every peer on one batch (images, labels[, weights]) -> running metrics."""
        images, labels, weights = _unpack(data)
        strength = self.schedule(self.optimizer.iterations)
        variables = self._variables()
        with tf.GradientTape() as tape:
            logits = self._logits(images, training=True)
            labelled, distilled = self._terms(images, labels, logits)
            total = tf.reduce_sum(_mean(labelled + strength * distilled, weights))
            # Keras sums the replicas' gradients; each has the mean over its own part of the batch.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            loss = (total + sum(self.losses)) / replicas
        gradients = tape.gradient(loss, variables)
        if not self.jit_compile:  # XLA has no strings to say it in
            self._stop_if_not_finite(_mean(labelled, weights), _mean(distilled, weights), strength)
        self.optimizer.apply_peers(gradients, variables)
        return self._update_metrics(labels, logits, (labelled, distilled), strength, weights)

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
        taught = self._teacher(logits, weights=weights, labels=labels, images=images)
        return (
            distill.cross_entropy(labels, logits),
            distill.distillation(taught, logits, self.temperature),
        )

    def _update_metrics(self, labels, logits, terms, strength, weights, test=False):
        labelled, distilled = terms
        together = distill.ensemble(logits, self.ensemble_weights)
        hits = distill.top1(labels, logits)
        values = {
            "loss": tf.reduce_sum(labelled + (0.0 if test else strength) * distilled, axis=0),
            "distill_weight": tf.fill(tf.shape(labels), strength),
            "agreement": distill.agreement(logits),
            "pairwise_kl": distill.pairwise_kl(logits),
            "ensemble_cross_entropy": distill.cross_entropy(labels, together),
            "ensemble_top1": distill.top1(labels, together),
        }
        for i, name in enumerate(self.peers):
            values[f"{name}_cross_entropy"] = labelled[i]
            values[f"{name}_distillation"] = distilled[i]
            values[f"{name}_top1"] = hits[i]
        for name, value in values.items():
            self.trackers[name].update_state(value, sample_weight=weights)
        results = {name: tracker.result() for name, tracker in self.trackers.items()}
        strategy = tf.distribute.get_strategy()
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
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

    def _stop_if_not_finite(self, labelled, distilled, strength):
        """Fail inside the graph: by the end of the epoch nobody could say where it began."""
        bad = ~tf.math.is_finite(labelled)
        # A peer with broken logits breaks the teacher of the others too: name the culprit only.
        bad = tf.cond(tf.reduce_any(bad), lambda: bad, lambda: ~tf.math.is_finite(distilled))

        def fail():
            names = tf.strings.reduce_join(tf.boolean_mask(list(self.peers), bad), separator=", ")
            step = tf.strings.as_string(self.optimizer.iterations.value)
            parts = ["peer ", names, ", step ", step, ", lambda ", tf.strings.as_string(strength)]
            message = tf.strings.join([_NON_FINITE, *parts])
            return tf.debugging.Assert(False, [message])

        tf.cond(tf.reduce_any(bad), fail, tf.no_op)


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


def _named(peers) -> dict[str, keras.Model]:
    if not isinstance(peers, Mapping):
        names = [peer.name for peer in peers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"peers: the name '{twice[0]}' is used twice; give a dict by name.")
        peers = dict(zip(names, peers, strict=True))
    if not peers:
        raise InputError("peers: received none; valid: one or more Keras models.")
    if "ensemble" in peers:
        raise InputError("peers: the name 'ensemble' is taken by the peers' mean; choose another.")
    return dict(peers)


def _classes(peers: dict[str, keras.Model]) -> int:
    """Return the number of classes that all peers share."""
    counts = {name: getattr(peer, "output_shape", [None])[-1] for name, peer in peers.items()}
    for name, count in counts.items():
        if count is None or count < 2:
            raise InputError(
                f"peers: '{name}' has {count or 'an unknown number of'} logits; valid: a built"
                " functional model with one logit a class, two or more."
            )
    if len(set(counts.values())) > 1:
        raise InputError(f"peers: the numbers of logits differ: {counts}; valid: one for all.")
    return next(iter(counts.values()))


def _shares(peers: dict[str, keras.Model], weights: Mapping[str, float] | None) -> list[float]:
    """Return the ensemble weights in the peers' order, summing to 1."""
    weights = dict.fromkeys(peers, 1.0) if weights is None else weights
    if set(weights) != set(peers) or min(weights.values()) < 0 or not sum(weights.values()) > 0:
        raise InputError(
            f"weights: received {dict(weights)}; valid: one >= 0 for each of {', '.join(peers)},"
            " not all 0."
        )
    return [weights[name] / sum(weights.values()) for name in peers]
