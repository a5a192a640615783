"""What a loss or gradient that is not finite does: stop the training, or cost that peer the step.

The same machinery carries the loss scale of half precision, whose overflows are expected. The
order within a step is that of the methods of `Nonfinite`: snapshot, scaled, stop or verdict,
unscaled and sparing, put_back.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping

import keras
import tensorflow as tf

from xkd_keras.distillation import replicas
from xkd_keras.errors import InputError

MODES = ("stop", "skip")
_MESSAGE = "non-finite loss: "
# Of the loss scale (Micikevicius et al., 2018, section 3.2), with the numbers of Keras.
FIRST_SCALE = 2.0**15
GROW_AFTER = 2000  # steps


class Nonfinite:
    """Watches the steps of a cohort's peers.

    Where a peer computes in float16, the loss is scaled up, so that gradients do not vanish; a peer
    whose gradients overflow sits that step out.

    Args:
        peers: By name.
        mode: `stop` fails in the step; `skip` leaves that peer, and it only, as it was before.

    Attributes:
        skips: Whether the mode is `skip`.
        may_skip: Whether a peer may sit a step out: `skip`, or float16.
        skipped: By name, a metric that counts those steps; empty where there can be none.

    Raises:
        InputError: Unknown mode.
    """

    def __init__(self, peers: Mapping[str, keras.Model], mode: str):
        if mode not in MODES:
            raise InputError.unknown("on_nonfinite", mode, MODES)
        self.peers, self.skips = peers, mode == "skip"
        self.scales = any(computes_in_half(peer) for peer in peers.values())
        self.may_skip = self.skips or self.scales
        names = peers if self.may_skip else ()
        self.skipped = {name: keras.metrics.Sum(f"{name}_skipped") for name in names}

    def attach(self, optimizer) -> None:
        """Take part in the updates of a CohortOptimizer, which is built; again is harmless."""
        self.optimizer = optimizer
        # Noted here: replicas trace a step side by side, and each sets them for its own update.
        decays = {name: each.weight_decay for name, each in optimizer.by_peer.items()}
        self._decays = {name: decay for name, decay in decays.items() if decay}
        for name, each in optimizer.by_peer.items():
            if "unguarded" in vars(each):  # by an earlier compile
                each.update_step = each.unguarded
                del each.unguarded
            if self.may_skip:
                self._guard(name, each)
        if self.scales and not hasattr(optimizer, "loss_scale"):
            scalar = {"shape": (), "aggregation": "only_first_replica"}
            start = keras.initializers.Constant(FIRST_SCALE)
            optimizer.loss_scale = optimizer.add_variable(
                initializer=start, name="loss_scale", **scalar
            )
            optimizer.since_overflow = optimizer.add_variable(
                initializer="zeros", dtype="int32", name="since_overflow", **scalar
            )

    def _guard(self, name: str, optimizer: keras.optimizers.Optimizer) -> None:
        """Let each variable's update ask the verdict: there, conditions are allowed everywhere.

        (Keras' own LossScaleOptimizer asks one replica, before the gradients are summed.)
        """
        optimizer.unguarded = update = optimizer.update_step

        def update_if_finite(gradient, variable, learning_rate):
            def do():
                update(gradient, variable, learning_rate)
                return 0

            tf.cond(self._verdict[name], do, lambda: 0)

        optimizer.update_step = update_if_finite

    def snapshot(self) -> dict[str, list]:
        """Return what a forward pass changes in each peer, with copies: its moving statistics."""
        if not self.may_skip:
            return {}
        return {
            name: [
                (variable, tf.identity(variable.value))
                for variable in peer.non_trainable_variables
                if "float" in variable.dtype
            ]
            for name, peer in self.peers.items()
        }

    def sound(self, logits: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
        """Return logits [P, B, C] that no broken peer spoils for the others, under `skip`."""
        return sound(logits, shares) if self.skips else logits

    def counted(self, terms: Iterable[tf.Tensor]) -> list[tf.Tensor]:
        """Return the terms of a loss as metrics count them, under `skip` 0 where not finite."""
        return [finite_or_zero(term) if self.skips else term for term in terms]

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """Return the loss, float32 scalar, as its gradients are wanted in half precision."""
        return loss * self.optimizer.loss_scale if self.scales else loss

    def unscaled(self, gradients: dict[str, list]) -> dict[str, list]:
        """Return the gradients of the loss from those of the scaled loss, by the peer's name."""
        if not self.scales:
            return gradients
        scale = self.optimizer.loss_scale
        return {
            name: [None if g is None else g / tf.cast(scale, g.dtype) for g in own]
            for name, own in gradients.items()
        }

    def stop(self, labelled: tf.Tensor, distilled: tf.Tensor, distill_weight: tf.Tensor) -> None:
        """Fail inside the graph where a term is not finite, naming peer, step and lambda.

        By the end of the epoch nobody could say where it began. `explained` reads the message.

        Args:
            labelled: float32 [P], the mean cross-entropy of each peer.
            distilled: float32 [P], its mean distillation term.
            distill_weight: lambda of the step.
        """
        bad = ~tf.math.is_finite(tf.stack([labelled, distilled]))
        # All replicas fail, or one machine would wait for another that has stopped.
        labelled, distilled = tf.unstack(replicas.total(tf.cast(bad, tf.float32)) > 0)
        # A peer with broken logits breaks the teacher of the others too: name the culprit only.
        bad = tf.cond(tf.reduce_any(labelled), lambda: labelled, lambda: distilled)

        def fail():
            names = tf.strings.reduce_join(tf.boolean_mask(list(self.peers), bad), separator=", ")
            step = tf.strings.as_string(self.optimizer.iterations.value)
            weight = tf.strings.as_string(distill_weight)
            message = [_MESSAGE, "peer ", names, ", step ", step, ", lambda ", weight]
            return tf.debugging.Assert(False, [tf.strings.join(message)])

        tf.cond(tf.reduce_any(bad), fail, tf.no_op)

    def verdict(
        self, gradients: dict[str, list], labelled: tf.Tensor, distilled: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Return by name whether loss and gradients are finite on all replicas: bool scalars.

        Args:
            gradients: By the peer's name, and `ensemble` for a teacher that learns.
            labelled: float32 [P], the mean cross-entropy of each peer.
            distilled: float32 [P], its mean distillation term.

        Returns:
            Empty where no peer may sit a step out.
        """
        if not self.may_skip:
            return {}
        finite = {}
        for i, name in enumerate(gradients):
            values = [g for g in gradients[name] if g is not None]
            # The teacher's own variables have no loss of their own.
            values += [labelled[i], distilled[i]] if name in self.peers else []
            finite[name] = tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in values])
        bad = replicas.total(1.0 - tf.cast(tf.stack(list(finite.values())), tf.float32))
        return dict(zip(finite, tf.unstack(tf.equal(bad, 0.0)), strict=True))

    @contextlib.contextmanager
    def sparing(self, verdict: dict[str, tf.Tensor]) -> Iterator[None]:
        """Let updates within leave broken peers and their momenta as they are; adapt the scale."""
        if not verdict:
            yield
            return
        self._verdict = verdict
        for name, decay in self._decays.items():  # decoupled: Keras applies it beside the gradient
            kept = tf.cast(verdict[name], tf.float32)
            self.optimizer.by_peer[name].weight_decay = decay * kept
        try:
            yield
        finally:
            for name, decay in self._decays.items():
                self.optimizer.by_peer[name].weight_decay = decay
        if self.scales:
            self._adapt_scale(tf.reduce_all(list(verdict.values())))

    def searching(self) -> bool:
        """Whether the loss scale may fall further, until gradients do not overflow any more."""
        scale = self.optimizer.loss_scale if self.scales else 1.0
        return float(keras.ops.convert_to_numpy(scale)) > 1.0

    def _adapt_scale(self, finite: tf.Tensor) -> None:
        """Double the scale after many steps without an overflow; halve it after one."""
        scale, count = self.optimizer.loss_scale, self.optimizer.since_overflow
        since = tf.where(finite, count + 1, 0)
        grown = tf.equal(since, GROW_AFTER)
        factor = tf.where(finite, tf.where(grown, 2.0, 1.0), 0.5)
        scale.assign(tf.maximum(scale * factor, 1.0))
        count.assign(tf.where(grown, 0, since))

    def put_back(self, before: dict[str, list], verdict: dict[str, tf.Tensor]) -> None:
        """Give broken peers their moving statistics of the snapshot, and count the step."""
        for name, pairs in before.items():
            for variable, old in pairs:
                variable.assign(tf.where(verdict[name], variable.value, old))
        count = tf.distribute.get_strategy().num_replicas_in_sync
        for name, metric in self.skipped.items():
            metric.update_state((1.0 - tf.cast(verdict[name], tf.float32)) / count)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn the failure that `Nonfinite.stop` put into a graph into FloatingPointError."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        message = re.search(_MESSAGE + r"[^\"\]]*", str(error))
        if not message:
            raise
        raise FloatingPointError(message.group()) from None


def check_history(history: Mapping[str, list], peers: Iterable[str]) -> None:
    """Raise FloatingPointError where a peer's loss of an epoch is not finite.

    Args:
        history: As `fit` returns it: by name, one value per epoch.
        peers: Their names.
    """
    for name in peers:
        for epoch, loss in enumerate(history.get(f"{name}_cross_entropy", ()), start=1):
            check_epoch(name, epoch, (loss,), every_step=False)


def check_epoch(name: str, epoch: int, losses: tuple[float, ...], every_step: bool) -> None:
    """Raise FloatingPointError where an epoch shows that training further is useless.

    XLA leaves the check of each step out, and `skip` would never end.

    Args:
        name: The peer's.
        epoch: Counted from 1.
        losses: Its mean losses of the epoch.
        every_step: Whether it sat out every step.
    """
    if every_step or not all(abs(loss) < float("inf") for loss in losses):
        where = "in every step of" if every_step else "in"
        raise FloatingPointError(f"{_MESSAGE}peer {name}, {where} epoch {epoch}")


def computes_in_half(peer: keras.Model) -> bool:
    """Whether a layer of the peer computes in float16, whose range gradients leave."""
    return any(layer.compute_dtype == "float16" for layer in peer._flatten_layers())


def finite_or_zero(values: tf.Tensor) -> tf.Tensor:
    """Return values with 0 where they are not finite: same shape and dtype."""
    return tf.where(tf.math.is_finite(values), values, tf.zeros_like(values))


def sound(logits: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """Return logits with those that are not finite replaced by the other peers' mean.

    In the ensemble of them, that peer then has no say for that image.

    Args:
        logits: float [P, B, C]; all of a peer's count as broken for an image where one is.
        shares: float [P], summing to 1.

    Returns:
        float [P, B, C], finite; zeros where all peers are broken.
    """
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=-1, keepdims=True)  # [P, B, 1]
    safe = tf.where(finite, logits, tf.zeros_like(logits))
    own = tf.cast(shares, logits.dtype)[:, None, None] * tf.cast(finite, logits.dtype)
    total = tf.reduce_sum(own, axis=0)
    others = tf.math.divide_no_nan(tf.reduce_sum(own * safe, axis=0), total)
    return tf.where(finite, logits, others)
