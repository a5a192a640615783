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
        "A network, repeated: NAME[,option=value...]. NAME is one of"
        f" {', '.join(peers.names())} (imagenet_... is a size, for large images, not weights); or"
        " applications:NAME, a classifier of keras.applications, as"
        " applications:EfficientNetV2B0; file:PATH, a saved Keras model; your_module:build_fn."
        " Options: name, weight (in the ensemble), distill (a factor of lambda), exits (for"
        " --exits: the layers that have heads, LAYER:LAYER), start (trained weights: imagenet, for"
        " applications:NAME, or a .keras or .weights.h5 file), freeze"
        " (epochs in which only its last layer learns), start_rate (a factor of the learning rate"
        " for all layers but the last), pixels (what the weights expect, where the file does not"
        f" say: {', '.join(PIXELS)}); and the flags of how a peer learns, without dashes. Those"
        f" that are not given suit the network. {suits}; of applications:NAME as in"
        " xkd_keras/peers/README.md; from trained weights, a tenth of the learning rate."
    )
