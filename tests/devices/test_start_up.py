"""TensorFlow and Keras as commands import them, and as programs of the user's do."""

import subprocess
import sys

import pytest

from tests.shell import ENV


def python(code, **env):
    """Run it after TensorFlow has been loaded; return what it printed."""
    start = "from xkd_keras.devices import start_up; start_up.load_tensorflow(); import keras, sys"
    command = [sys.executable, "-c", f"{start}; {code}"]
    done = subprocess.run(command, env={**ENV, **env}, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.slow
def test_a_command_imports_later_what_keras_would_take_a_second_for():
    loaded = python(
        "print({'matplotlib', 'sklearn', 'pandas'} & {*sys.modules});"
        "import sklearn.base, matplotlib.pyplot; print(sklearn.__name__, matplotlib.__name__)",
        _XKD_KERAS_COMMAND="1",
    )
    assert loaded == ["set()", "sklearn", "matplotlib"]


@pytest.mark.slow
def test_a_program_of_the_users_has_all_of_keras():
    mixed = python(
        "import sklearn.base;"
        "print(issubclass(keras.wrappers.SKLearnClassifier, sklearn.base.BaseEstimator))"
    )
    assert mixed == ["True"]
