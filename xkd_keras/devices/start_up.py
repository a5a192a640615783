"""TensorFlow, imported without its notices. This module imports it only when told to."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from xkd_keras import RUNS_A_COMMAND, WANTS_LOGS

# What Keras imports, if it is there, for its wrappers and galleries: no command uses these, and
# both take a second of the three that Keras and TensorFlow need.
_LATER = ("matplotlib", "sklearn")


def load_tensorflow(wants_logs: bool = WANTS_LOGS) -> None:
    """Import TensorFlow without its start-up notices; TF_CPP_MIN_LOG_LEVEL=0 shows them.

    It takes seconds, so commands call this only after their flags have been found right. Keras is
    then configured as the package needs it, whatever keras.json says.
    """
    with quiet(wants_logs), _left_out(_LATER if RUNS_A_COMMAND else ()):
        import keras
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")  # looks for drivers, and reports on them
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    if not wants_logs:
        tf.get_logger().setLevel("ERROR")


@contextlib.contextmanager
def _left_out(names: Sequence[str]) -> Iterator[None]:
    """Let imports of these packages fail within, as if they were not installed."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextlib.contextmanager
def quiet(wants_logs: bool = WANTS_LOGS) -> Iterator[None]:
    """Send what is written to stderr nowhere, C++ code's notices too, unless logs are wanted."""
    if wants_logs:
        yield
        return
    sys.stderr.flush()
    shown, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(nowhere)
