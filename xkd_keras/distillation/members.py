"""What a cohort may be made of: names and classes of its peers, checked."""

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
            raise InputError(
                f"the name '{twice[0]}' is used twice; give a dict by name.", argument="peers"
            )
        peers = dict(zip(names, peers, strict=True))
    if not peers:
        raise InputError("received none; valid: one or more Keras models.", argument="peers")
    if "ensemble" in peers:
        raise InputError(
            "the name 'ensemble' is taken by the peers' mean; choose another.", argument="peers"
        )
    return dict(peers)


def classes(peers: Mapping[str, keras.Model]) -> int:
    """Return the number of classes that all peers share; raises InputError where they differ."""
    counts = {name: getattr(peer, "output_shape", [None])[-1] for name, peer in peers.items()}
    for name, count in counts.items():
        if count is None or count < 2:
            raise InputError(
                f"'{name}' has {count or 'an unknown number of'} logits; valid: a built"
                " functional model with one logit per class, two or more.",
                argument="peers",
            )
    if len(set(counts.values())) > 1:
        raise InputError(
            f"the numbers of logits differ: {counts}; valid: one for all.", argument="peers"
        )
    return next(iter(counts.values()))
