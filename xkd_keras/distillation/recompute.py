"""A training step in less memory: some activations are computed again when gradients need them.

After Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016 (arXiv:1604.06174). A network
is cut at tensors through which everything goes that comes later. These are kept, and what lies
between two of them is computed a second time in the backward pass, with the same result.
"""

import functools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from xkd_keras import forward_pass, operations
from xkd_keras.distillation import inside
from xkd_keras.errors import InputError


def forward(
    peer: keras.Model, more: Sequence[keras.KerasTensor] = (), at: Sequence[str] = ()
) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    """Return images -> [logits, *more], as in training.

    Args:
        peer: Images [B, H, W, channels] -> logits [B, C].
        more: Tensors within the graph of a functional peer, from which its logits are made.
        at: The names of layers, in the graph's order, whose outputs are kept; none: all are kept.
            What lies after the last is never computed twice, nor what might not do the same twice:
            dropout, Lambda, layers of the user's own.

    Raises:
        InputError: There is no such layer, or a path goes past it.
    """
    wanted = [*getattr(peer, "outputs", ())[:1], *more]
    if not at:
        whole = keras.Model(peer.inputs[0], wanted) if more else peer
        return lambda images: keras.tree.flatten(whole(images, training=True))
    if not operations.has_graph(peer):
        raise InputError(
            f"'{peer.name}' is not a functional model; valid: no layers of it.",
            argument="recompute",
        )
    calls = inside.calls(peer)
    for name in at:
        if name not in calls:
            raise InputError.unknown("recompute", name, calls, f"layer (of '{peer.name}')")
    start, segments = peer.inputs[0], []
    for end in [*(calls[name][0].output_tensors[0] for name in at), peer.outputs[0]]:
        if end is not start:
            segments.append(_segment(peer, start, end, wanted))
            start = end
    return functools.partial(_through, segments, list(map(id, wanted)))


def _segment(peer, start, end, wanted) -> tuple[Callable, list[int]]:
    """Return the function from start to [end, and what is wanted in between], and their ids."""
    nodes = inside.between(start, end)
    if nodes is None:
        made = end._keras_history.operation.name
        raise InputError(
            f"'{made}' also uses what was computed before '{start._keras_history.operation.name}'"
            f" in '{peer.name}'; valid: layers that every path passes through.",
            argument="recompute",
        )
    there = {id(tensor) for each in nodes for tensor in each.output_tensors}
    outputs = [end, *(t for t in wanted if id(t) in there and t is not end)]
    call = functools.partial(keras.Model(start, outputs).__call__, training=True)
    last = end is peer.outputs[0]
    if not last and all(_repeats(each.operation) for each in nodes):
        call = functools.partial(_twice, call)
    return call, list(map(id, outputs))


def _through(segments, wanted: Sequence[int], images: tf.Tensor) -> list[tf.Tensor]:
    """Compute one segment after the other; return the tensors that are wanted."""
    found, x = {}, keras.ops.cast(images, "float32")  # integers cannot be watched for gradients
    for call, names in segments:
        outputs = keras.tree.flatten(call(x))
        found |= dict(zip(names, outputs, strict=True))
        x = outputs[0]
    return [found[name] for name in wanted]


def _twice(call: Callable, x: tf.Tensor):
    """Return call(x), of which nothing but the result is kept for the gradients."""
    calls = []

    def once_more(x):
        calls.append(x)
        if len(calls) == 1:
            return call(x)
        before = forward_pass.FIRST.set(False)
        try:
            with keras.StatelessScope():  # moving statistics have moved by this batch already
                return call(x)
        finally:
            forward_pass.FIRST.reset(before)

    return tf.recompute_grad(once_more)(x)


def _repeats(operation) -> bool:
    """Whether an operation gives the same when it is called twice, but for moving statistics."""
    if isinstance(operation, keras.Model):
        return operations.has_graph(operation) and all(map(_repeats, operation.layers))
    if not isinstance(operation, keras.Layer):  # an operator, such as x + y
        return True
    known = isinstance(operation, keras.layers.BatchNormalization)
    known |= type(operation).__module__.startswith("keras.")
    known &= not isinstance(operation, keras.layers.Lambda)
    known &= not getattr(operation, "synchronized", False)  # replicas would wait for each other
    seeds = len(operation.variables) > len(operation.weights)
    return known and not seeds and operation.activity_regularizer is None
