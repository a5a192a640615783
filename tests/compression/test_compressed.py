"""A peer compressed from a finished run: its files, and what is warned of or refused."""

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import tensorflow as tf

from xkd_keras import compress as command
from xkd_keras.compression import passes, pipeline
from xkd_keras.errors import InputError
from xkd_keras.flags import config as configs
from xkd_keras.runs import calibration
from xkd_keras.ship import lite
from xkd_keras.ship.tested import full_float32


@pytest.fixture(scope="module")
def trained(finished_run):
    """A finished run of a convolutional network with batch norm, and another to teach it."""
    return Path(finished_run.run_dir)


@pytest.mark.slow
@pytest.mark.usefixtures("unmeasured")
def test_a_compressed_peer_joins_the_manifest(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained, tmp_path / "run")
    manifest = pipeline.compress(tmp_path / "run", "normalised", "prune", epochs=1, sparsity=0.7)
    assert [entry["file"] for entry in manifest["artifacts"]] == [
        "tflite/normalised-prune-float32.tflite",
        "tflite/normalised-prune-int8.tflite",
    ]
    for entry in manifest["artifacts"]:
        assert entry["sparsity"] == pytest.approx(0.7, abs=0.03)
        assert entry["taught"] is True
        content = (tmp_path / "run" / "export" / entry["file"]).read_bytes()
        assert lite.Lite(content).classes == 10
    monkeypatch.setattr(pipeline, "LOSS", -1.0)  # then every file has lost
    fitted, fit = [], calibration.temperature
    monkeypatch.setattr(
        calibration, "temperature", lambda labels, z: fitted.append(z) or fit(labels, z)
    )
    again = pipeline.compress(tmp_path / "run", "normalised", "qat", epochs=1, distill_weight=0.0)
    assert len(again["artifacts"]) == 3
    assert again["artifacts"][-1]["taught"] is False
    assert "warning: tflite/normalised-qat.tflite reaches " in capsys.readouterr().out
    # Of int8 probabilities, all below 1/512 are 0: the temperature is of the model's logits.
    assert fitted[-1].max() > 0.1  # the logarithm of no probability is above 0


@pytest.mark.parametrize(
    ("peer", "rate"),
    [
        ("alexnet,learning_rate=0.02", 0.02),
        ("resnet20,optimizer=adamw", 0.1),
        ("mobilenet_v2,optimizer=adamw,learning_rate=0.003", 0.05),
        ("tests.small_peers:normalised,optimizer=adamw,learning_rate=0.01,weight=2", 0.1),
    ],
)
def test_fine_tuning_starts_from_a_rate_of_sgd(peer, rate):
    config = configs.Config(peer=(peer,))
    assert pipeline._usual_rate(config, config.peers()[0].name) == rate


@pytest.mark.parametrize(
    ("before", "after", "warned"), [(0.96, 0.9, True), (0.96, 0.92, False), (0.5, 0.7, False)]
)
def test_a_file_that_lost_its_accuracy_is_warned_of(before, after, warned, capsys):
    tested = types.SimpleNamespace(top1=lambda network: {"plain": before}[network])
    pipeline._warn({"file": "a.tflite", "network": "plain", "top1": after}, tested)
    printed = capsys.readouterr().out
    assert printed.startswith("warning: a.tflite reaches 90.00 % top-1, ") == warned
    assert ("96.00 %" in printed) == warned


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("normalised", "quat"), "^recipe: unknown value 'quat'. Did you mean 'qat'"),
        (("normalized", "qat"), "^peer: unknown value 'normalized'. Did you mean 'normalised'"),
    ],
)
def test_a_wrong_request_is_told(trained, arguments, message):
    with pytest.raises(InputError, match=message):
        pipeline.compress(trained, *arguments)
    assert not (trained / "export").exists()


def test_a_layer_that_a_recipe_cannot_take_is_told_before_anything_is_computed(
    trained, monkeypatch
):
    def never(*_):
        raise AssertionError("it computed")

    def refuse(*_, **__):
        raise InputError("the layer 'x' has no int8.", argument="recipe")

    monkeypatch.setattr(pipeline, "Tested", never)
    monkeypatch.setattr("xkd_keras.compression.quantizing.check", refuse)
    with pytest.raises(InputError, match=r"^recipe: the layer 'x'"):
        pipeline.compress(trained, "normalised", "qat")


def test_files_are_compared_in_full_precision_and_what_follows_has_its_own_again():
    state = tf.config.experimental.tensor_float_32_execution_enabled
    tf.config.experimental.enable_tensor_float_32_execution(True)
    with full_float32():
        assert not state()
    assert state()


def test_the_command_knows_every_recipe():
    assert tuple(passes.CHAINS) == command.RECIPES


@pytest.mark.slow
def test_who_never_compresses_never_loads_tfmot():
    code = (
        "import sys, xkd_keras.train, xkd_keras.runs.training, xkd_keras.ship.artifacts;"
        "assert not {'tensorflow_model_optimization', 'tf_keras'} & set(sys.modules)"
    )
    # tfmot, which this process has imported, sets a variable that makes TensorFlow load tf_keras.
    usual = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=usual)
    assert done.returncode == 0, done.stderr[-1000:]
