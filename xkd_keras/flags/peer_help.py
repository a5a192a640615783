"""The help of --peer, which lists every network and how it learns."""

from xkd_keras import peers
from xkd_keras.peers.catalogue import PIXELS


def peer_help() -> str:
    """Say what --peer takes, and which networks learn otherwise than most."""
    apart: dict[str, list[str]] = {}
    for name in peers.names():
        own = ", ".join(f"{option} {value}" for option, value in peers.suits(name).items())
        if own:
            apart.setdefault(own, []).append(name)
    suits = "; ".join(f"{', '.join(names)}: {own}" for own, names in apart.items())
    return (
        "A network; repeat the flag for several: NAME[,option=value...]. NAME is one of"
        f" {', '.join(peers.names())} (imagenet_... are networks for large images, not weights);"
        " or applications:NAME, a classifier of keras.applications, such as"
        " applications:EfficientNetV2B0; file:PATH, a saved Keras model; your_module:build_fn."
        " Options: name, weight (in the ensemble), distill (a factor of lambda), exits (for"
        " --exits: the layers that get heads, LAYER:LAYER), start (trained weights: imagenet, for"
        " applications:NAME, or a .keras or .weights.h5 file), freeze (epochs in which only its"
        " last layer learns), start_rate (a factor of the learning rate for all layers but the"
        " last), pixels (which pixels the weights expect, if the file does not say:"
        f" {', '.join(PIXELS)}); and the learning flags, without dashes. Learning options that"
        f" are not given are chosen to suit the network. {suits}; for applications:NAME see"
        " xkd_keras/peers/README.md; from trained weights, a tenth of the learning rate."
    )
