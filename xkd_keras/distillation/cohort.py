"""Cohort: several different networks trained at once, each taught by their ensemble."""

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from xkd_keras.distillation import (
    averages,
    batches,
    exits,
    losses,
    mastery,
    members,
    metrics,
    mixing,
    nonfinite,
    similar,
    teachers,
    terms,
)
from xkd_keras.distillation import recompute as recomputing
from xkd_keras.distillation import shares as ensemble_shares
from xkd_keras.distillation.exits import Exits
from xkd_keras.distillation.keras_side import KerasSide
from xkd_keras.distillation.schedules import Constant


@keras.saving.register_keras_serializable("xkd_keras")
class Cohort(KerasSide):
    """Peers that see the same batch and learn from the labels and the ensemble of their logits.

    With logits z_i of peer i, labels y, temperature T and the weight lambda of step t (after MCOD,
    Gao et al., Entropy 2019, 21(4), 357):

    L_i = CE(y, z_i) + lambda(t) T^2 KL(stop_gradient(softmax(z_T / T)) || softmax(z_i / T))

    and each step minimises sum_i L_i. The teacher z_T is constant to the gradient, so no peer's
    loss reaches another peer. `distill`, `adapt`, a teacher's gate and `similarity` add to L_i; the
    whole equation is in this package's README.md.

    Args:
        peers: Built Keras models, images [B, H, W, C] -> logits [B, classes]; a dict by name, or a
            list whose models' names differ. They are trained in place.
        schedule: lambda(t): a number, or a function of the step like those of
            `xkd_keras.schedules`.
        teacher: A name in `xkd_keras.teachers` (`mean`, `leave_one_out`, ...), or a function or
            Keras layer as described there. What a layer learns (`Gate`) is learned too.
        weights: By name, how much each peer counts in the ensemble; equal where None. Only ratios
            matter: `shares` are these weights divided by their sum.
        temperature: T > 0 softens both sides of the KL.
        term: What is compared: a name in `xkd_keras.distillation.terms`, or a function like those.
        distill: By name, a factor >= 0 of lambda for each peer; 1 for those that are left out.
        adapt: >= 0; a peer j is heard as a teacher by its mastery exp(-adapt CE_j), with CE_j its
            running cross-entropy on the training images (`mastery.Mastery`); 0: all in full, as is
            a `Frozen` teacher, which is no peer.
        class_weights: How much an image of each class counts in the loss, [classes] or a dict by
            the number of the class; 1 if None.
        mix: What half of the training batches are made of: a name in `mixing.KINDS`.
        seed: Of the mixing.
        label_smoothing: In 0..1, 1 excluded: the part of each label that is spread evenly over all
            classes in the training loss (`losses.smoothed`); metrics are of the labels as they are.
        ema: In 0..1, 1 excluded: the decay of the moving averages of the peers' weights; 0: none.
            `evaluate` and `predict` are of the averages, which begin with the weights that peers
            have now; training goes on with the weights.
        similarity: gamma >= 0: the weight of a second term, by which peers learn from one another
            which images of a batch are alike, as their last layers see them (`similar.Similarity`);
            0: none. It does not go together with exits.
        exits: By name, the names of layers of a peer on which heads learn and teach during training
            (`exits.Exits`); the peers themselves stay as they are.
        recompute: By name, the layers of a peer whose outputs a training step keeps, while it
            computes what lies between them again for the gradients (`recompute.forward`): less
            memory, more time, the same numbers. `xkd_keras.peers.stages.cuts` finds them.

    A Cohort is saved and loaded as any Keras model; functions of your own given as teacher or
    schedule must be registered with Keras, or named in `custom_objects` when loading.

    Raises:
        InputError: No peers, a name twice, peers that disagree on the number of classes, a bad
            teacher, weight, temperature or layer to recompute from, similarity beside exits.
    """

    def __init__(
        self,
        peers: Mapping[str, keras.Model] | Sequence[keras.Model],
        schedule: float | Callable = 1.0,
        teacher: str | Callable = "mean",
        weights: Mapping[str, float] | None = None,
        temperature: float = 3.0,
        term: str | Callable = "kl",
        distill: Mapping[str, float] | None = None,
        adapt: float = 0.0,
        mix: str = "none",
        seed: int = 0,
        class_weights: Sequence[float] | Mapping[int, float] | None = None,
        label_smoothing: float = 0.0,
        ema: float = 0.0,
        exits: Mapping[str, Sequence[str]] | None = None,
        similarity: float = 0.0,
        recompute: Mapping[str, Sequence[str]] | None = None,
        name: str = "cohort",
    ):
        super().__init__(name=name, dtype="float32")  # a mixed policy is for what is in the peers
        self.peers = members.named(peers)
        self.schedule = schedule if callable(schedule) else Constant(float(schedule))
        self.teacher = teacher
        self._teacher = teachers.get(teacher)
        self.temperature = members.above("temperature", temperature, 0)
        self.term = term
        self._term = terms.get(term)
        self.distill = members.factors(self.peers, distill)
        weights = None if weights is None else members.by_name("weights", weights, "a weight")
        self.shares = ensemble_shares.checked(self.peers, weights)
        self.classes = members.classes(self.peers, getattr(self._teacher, "models", {}))
        self.adapt = members.above("adapt", adapt, 0, or_equal=True)
        self.mix, self.seed = mixing.checked(mix), seed
        self.class_weights = members.of_classes("class_weights", class_weights, self.classes)
        self.label_smoothing = members.fraction("label_smoothing", label_smoothing)
        self.ema = members.fraction("ema", ema)
        self.averages = averages.Averages(self.peers, ema) if ema else None
        adapts = adapt and getattr(self._teacher, "of_peers", True)
        self.mastery = mastery.Mastery(len(self.peers), self.classes, adapt) if adapts else None
        recompute = members.by_name("recompute", recompute, "layers")
        self.recompute = {name: list(recompute.get(name, ())) for name in self.peers}
        exits = members.by_name("exits", exits, "layers")
        opened = members.opened(self.peers, exits, self.recompute)
        self.exits = Exits(opened, exits, self.classes, seed, self.recompute) if exits else None
        self.similarity = members.above("similarity", similarity, 0, or_equal=True)
        self.similar = similar.Similarity(opened, exits, self.recompute) if similarity else None
        self._forward = [  # where neither of these has its own
            recomputing.forward(opened[name] if at else self.peers[name], (), at)
            for name, at in self.recompute.items()
            if not (self.exits or self.similar)
        ]
        members.separate(self.peers, self._teacher)
        teachers.build(self._teacher, self.peers, self.classes)
        self.running = metrics.Metrics(self.peers, getattr(self._teacher, "gates", False))
        self.nonfinite = nonfinite.Nonfinite(self.peers, "stop")
        self.built = True  # the peers are

    def call(self, images, training=False):
        """Return the logits [B, classes] of every peer by name, and of the `ensemble`."""
        logits = self._logits(images, training)
        together = ensemble_shares.ensemble(logits, self._shares())
        return {**dict(zip(self.peers, tf.unstack(logits), strict=True)), "ensemble": together}

    def train_step(self, data):
        """One step of every peer: (images, labels[, sample_weight]) -> running metrics."""
        images, labels, sample_weight = self._batch(data)
        if not self.jit_compile:
            batches.warn_of_small_pixels(self.peers, images, self.optimizer.iterations)
        distill_weight = self.schedule(self.optimizer.iterations)
        step = tf.cast(self.optimizer.iterations, tf.int32)
        images, labels, sample_weight = mixing.mix(
            self.mix, images, labels, self.classes, (self.seed, step), sample_weight
        )
        statistics = self.nonfinite.snapshot()
        with tf.GradientTape() as tape:
            logits, early = self._heads(images)
            cross_entropy, distillation, gate = self._terms(images, labels, logits)
            label_loss, teacher_loss = self._loss_terms(
                labels, logits, early, sample_weight, cross_entropy, distillation
            )
            loss = label_loss + distill_weight * teacher_loss
            total = tf.reduce_sum(losses.mean(loss, sample_weight))
            # Keras sums the replicas' gradients; each has the mean over its own part of the batch.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            scaled = self.nonfinite.scaled((total + sum(self.losses)) / replicas)
        variables = self.learners()
        gradients = tape.gradient(scaled, variables)
        means = losses.mean(label_loss, sample_weight), losses.mean(teacher_loss, sample_weight)
        if not self.nonfinite.skips and not self.jit_compile:  # XLA has no strings to say it in
            self.nonfinite.stop(*means, distill_weight)
        verdict = self.nonfinite.verdict(gradients, *means)
        with self.nonfinite.sparing(verdict):
            self.optimizer.apply_peers(self.nonfinite.unscaled(gradients), variables)
        self.nonfinite.put_back(statistics, verdict)
        if self.averages:
            self.averages.update(self.peers, step, verdict)
        if self.mastery:
            beyond = cross_entropy - losses.entropy(labels)
            self.mastery.update(mastery.mean(beyond, sample_weight))
        label_loss, teacher_loss, cross_entropy, distillation = self.nonfinite.counted(
            (label_loss, teacher_loss, cross_entropy, distillation)
        )
        loss = label_loss + distill_weight * teacher_loss
        parts = cross_entropy, distillation, gate
        return self._measured(labels, logits, parts, loss, distill_weight, sample_weight)

    def test_step(self, data):
        """The same metrics on one batch, without learning; sample_weight 0 leaves an image out.

        The loss is here that of the labels alone: with lambda in it, it would rise and fall with
        the windows, and choosing the best epoch by it would choose among windows.
        """
        images, labels, sample_weight = self._batch(data)
        logits = self._logits(images, training=False)
        # That of the last step: with windows, the step to come may have another.
        distill_weight = self.schedule(tf.maximum(self.optimizer.iterations - 1, 0))
        cross_entropy, distillation, gate = self._terms(images, labels, logits)
        parts = cross_entropy, distillation, gate
        return self._measured(labels, logits, parts, cross_entropy, distill_weight, sample_weight)

    def predict_step(self, data):
        """Return the logits of one batch, as `call` does."""
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return batches.spared(self, batches.single(images))

    def _batch(self, data):
        """Return images, labels int64 [B], sample_weight [B] or None of a batch."""
        return batches.filled(*batches.unpacked(data, self.classes, not self.jit_compile))

    @property
    def metrics(self):
        return [*self.running.means.values(), *self.nonfinite.skipped.values()]

    def _logits(self, images, training):
        """One forward pass of each peer -> float32 [P, B, classes]."""
        return ensemble_shares.stacked(self.peers.values(), images, training)

    def _shares(self):
        """Return the peers' shares of the ensemble, in their order: float32 [P]."""
        return tf.constant(list(self.shares.values()))

    def teaching(self, images, labels):
        """Return what teaches each peer on images [B, H, W, C] with labels int [B], and how far.

        Returns:
            Logits of the peers float32 [P, B, classes], of their teachers alike (of several
            teachers of a peer, the mean), and gates float32 [P, B], 1 where the teacher has none.
        """
        logits = self._logits(images, training=False)
        teacher_logits, gate = self._teacher_logits(images, labels, logits)
        if len(teacher_logits.shape) > len(logits.shape):
            teacher_logits = tf.reduce_mean(teacher_logits, axis=0)
            gate = tf.reduce_mean(gate, axis=0)
        return logits, teacher_logits, gate

    def heard(self) -> dict[str, float]:
        """Return by the peer's name how far it hears its teachers now: what multiplies lambda.

        That is its own factor `distill` and, with `adapt`, how far its teachers have learned, 0..1.
        """
        return dict(zip(self.peers, map(float, self._hearing()[1][:, 0]), strict=True))

    def _teacher_logits(self, images, labels, logits):
        """Return the teachers' logits [(K,) P, B, classes], and gates that fit, or 1."""
        sound, (weights, _) = self.nonfinite.sound(logits, self._shares()), self._hearing()
        return teachers.ask(self._teacher, sound, weights=weights, labels=labels, images=images)

    def _terms(self, images, labels, logits):
        """Return cross-entropy, distillation term without lambda, gate: three float32 [P, B]."""
        teacher_logits, gate = self._teacher_logits(images, labels, logits)
        distillation, gate = terms.gated(
            self._term, gate, teacher_logits, logits, labels, self.temperature
        )
        return losses.cross_entropy(labels, logits), self._hearing()[1] * distillation, gate

    def _hearing(self):
        """Return the peers' weights as teachers [P], and what multiplies lambda of each [P, 1]."""
        weights, factors = self._shares(), tf.constant(list(self.distill.values()))
        if self.mastery:
            weights, learned = self.mastery.heard(weights)
            factors *= learned
        return weights, factors[:, None]

    def _heads(self, images):
        """Return the logits of a training step, and of each peer its exits' logits or its features.

        The latter is an empty list where there is neither.
        """
        if more := self.exits or self.similar:
            return more.logits(images)
        return tf.stack([tf.cast(call(images)[0], tf.float32) for call in self._forward]), []

    def _loss_terms(self, labels, logits, early, sample_weight, cross_entropy, distillation):
        """Return the two terms as a step minimises them, float32 [P, B] each.

        With smoothed labels, the terms of exits, and each image times the weight of its class.
        """
        label_loss = losses.smoothed(cross_entropy, logits, self.label_smoothing)
        teacher_loss = distillation
        if self.exits:
            of_labels, of_teachers = exits.terms(
                labels, logits, early, self.temperature, self.label_smoothing
            )
            label_loss += of_labels
            teacher_loss += self._hearing()[1] * of_teachers
        elif any(features is not None for features in early):
            factors = self.similarity * tf.constant(list(self.distill.values()))
            teaches = [share > 0 for share in self.shares.values()]
            teacher_loss += factors[:, None] * similar.terms(early, teaches, sample_weight)
        weights = self._fit_weights or self.class_weights
        return losses.by_class((label_loss, teacher_loss), labels, weights)

    def _measured(self, labels, logits, parts, loss, distill_weight, sample_weight):
        """Add a batch to the running metrics; return them."""
        shares = self._shares()
        sound = self.nonfinite.sound(logits, shares)
        self.running.update(
            labels, logits, sound, shares, parts, loss, distill_weight, sample_weight
        )
        return metrics.results(self.metrics)

    def learners(self) -> dict[str, list]:
        """Return what is trained, by the peer's name; what a teacher learns under `ensemble`."""
        trained = {name: peer.trainable_variables for name, peer in self.peers.items()}
        if self.exits:
            trained = {
                name: [*own, *self.exits.variables_of(name)] for name, own in trained.items()
            }
        learned = getattr(self._teacher, "trainable_variables", [])
        return {**trained, "ensemble": learned} if learned else trained

    def of_teacher(self) -> list:
        """Return what belongs to teaching: a teacher's variables, the peers' mastery and exits."""
        parts = [part for part in (self._teacher, self.mastery, self.exits) if part]
        return [variable for part in parts for variable in getattr(part, "variables", [])]
