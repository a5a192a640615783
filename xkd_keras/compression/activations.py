"""Activations, taken apart into what tfmot and int8 files can take."""

import keras
import tf_keras

from xkd_keras.compression import blocks
from xkd_keras.compression.making import Maker, affine, is_tensor

_kinds = tf_keras.layers


def activate(make: Maker, x, name: str, part: str = "", **options):
    """Apply an activation by the name of its function in keras.activations."""
    slope = options.get("negative_slope", 0.2)
    inside = f"{part or 'gate'}_inside"
    if name == "hard_sigmoid":
        x = affine(make, x, 1.0, 3.0, f"{inside}_3")
        x = make(_kinds.ReLU, inside, max_value=6.0)(x)
        return affine(make, x, 1 / 6, 0.0, part)
    if name == "silu":
        gate = make(_kinds.Activation, inside, activation="sigmoid")(x)
        return make(_kinds.Multiply, part)([x, gate])
    simple = {
        "relu": (_kinds.ReLU, {}),
        "relu6": (_kinds.ReLU, {"max_value": 6.0}),
        "leaky_relu": (_kinds.LeakyReLU, {"alpha": slope}),
        "elu": (_kinds.ELU, {"alpha": options.get("alpha", 1.0)}),
        "hard_silu": (blocks.HardSilu, {}),
    }
    if name == "gelu" and options.get("approximate"):
        simple["gelu"] = blocks.Gelu, {}
    kind, config = simple.get(name, (_kinds.Activation, {"activation": name}))
    if kind is _kinds.Activation and not hasattr(tf_keras.activations, name):
        raise make.error(f"has the activation '{name}', which tf_keras does not have")
    return make(kind, part, **config)(x)


def operation(make: Maker, x, **_):
    """keras.ops.relu and its like: classes named as the functions of keras.activations."""
    kind = type(make.layer).__name__
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in kind).lstrip("_")
    known = hasattr(keras.activations, name) and type(make.layer).__module__ == "keras.src.ops.nn"
    if not known or not is_tensor(x):
        raise make.error("is an operation that has no counterpart in tf_keras, which tfmot needs")
    options = ("negative_slope", "alpha", "approximate")
    return activate(make, x, name, **{k: v for k, v in vars(make.layer).items() if k in options})
