"""What a cohort may be made of: names, classes and weights of its peers, checked."""

from collections.abc import Mapping, Sequence

import keras

from xkd_keras.errors import InputError


def named(
    peers: Mapping[str, keras.Model] | Sequence[keras.Model],
) -> dict[str, keras.Model]:
    """Return the peers by name; raises InputError for none, a name twice, or `ensemble`."""
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


def classes(peers: dict[str, keras.Model]) -> int:
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


def shares(peers: dict[str, keras.Model], weights: Mapping[str, float] | None) -> list[float]:
    """Return the ensemble weights in the peers' order, summing to 1."""
    weights = dict.fromkeys(peers, 1.0) if weights is None else weights
    if set(weights) != set(peers) or min(weights.values()) < 0 or not sum(weights.values()) > 0:
        raise InputError(
            f"weights: received {dict(weights)}; valid: one >= 0 for each of {', '.join(peers)},"
            " not all 0."
        )
    return [weights[name] / sum(weights.values()) for name in peers]


def computes_in_half(peer: keras.Model) -> bool:
    """Whether a layer of the peer computes in float16, whose range gradients leave."""
    return any(layer.compute_dtype == "float16" for layer in peer._flatten_layers())
