"""What the workers of a run agree on, with the sums said instead of added over machines."""

import numpy as np
import pytest
import tensorflow as tf

from xkd_keras.devices import collectives
from xkd_keras.errors import InputError, PreemptedError


@pytest.fixture
def told(monkeypatch):
    """Two workers: what this one tells the other, which tells `others`."""
    sent = []
    monkeypatch.setattr(collectives, "several", lambda strategy: True)

    def total(strategy, values):
        sent.append(tuple(values))
        return np.asarray(values) + told.others

    told = type("Told", (), {"sent": sent, "others": np.array([0, 0])})
    monkeypatch.setattr(collectives, "total", total)
    return told


@pytest.mark.parametrize(
    ("error", "sent"),
    [(InputError("no"), (1, 0)), (OSError("disk"), (1, 0)), (PreemptedError("stopped"), (0, 1))],
)
def test_a_worker_that_fails_tells_whether_to_start_again_helps(told, error, sent):
    with pytest.raises(type(error)), collectives.agreed(None):
        raise error
    assert told.sent == [sent]


@pytest.mark.parametrize(
    ("others", "kind"),
    [((1, 0), InputError), ((0, 1), PreemptedError), ((1, 1), InputError)],
)
def test_the_other_worker_ends_alike(told, others, kind):
    told.others = np.array(others)
    with pytest.raises(kind), collectives.agreed(None):
        pass


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (tf.errors.UnavailableError(None, None, "Socket closed"), True),
        (tf.errors.InternalError(None, None, "Collective ops is aborted by: peer"), True),
        (tf.errors.InternalError(None, None, "cuDNN launch failure"), False),
        (tf.errors.InternalError(None, None, "Dst tensor is not initialized."), False),
        (tf.errors.InvalidArgumentError(None, None, "shapes"), False),
    ],
)
def test_a_lost_worker_is_not_a_fault_of_ones_own_gpu(told, error, gone):
    expected = PreemptedError if gone else type(error)
    with pytest.raises(expected) as caught, collectives.lost_workers(None):
        raise error
    assert error.message in str(caught.value)
