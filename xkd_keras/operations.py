"""What a Keras operation does, by its name."""


def does(operation) -> str:
    """Return what an operation, or the activation of a layer, does: "softmax", "relu", "cast"."""
    activation = getattr(operation, "activation", None)
    name = getattr(activation, "__name__", "") or type(operation).__name__
    return name.lower().replace("_", "")
