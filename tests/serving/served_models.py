"""Small SavedModels for the tests of `serving`, made by plain TensorFlow, and servers of them."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from serving import server as server_command
from serving.embedded import lifecycle
from serving.embedded.errors import ConfigError, invalid

FLAGS = {name: default for name, (default, *_) in server_command.FLAGS.items()} | {
    "port": 0,
    "enable_grpc_healthcheck_service": True,
    "file_system_poll_wait_seconds": 0.1,
    "max_num_load_retries": 0,
    "tensorflow_intra_op_parallelism": 1,
    "tensorflow_inter_op_parallelism": 1,
}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def server(**flags):
    """Run a server in this process; yields it, with `url` and `address`."""
    flags = SimpleNamespace(**{**FLAGS, "rest_api_port": free_port(), **flags})
    running = lifecycle.Server(server_command.options_of(flags))
    running.url = f"http://127.0.0.1:{flags.rest_api_port}"
    running.address = f"127.0.0.1:{running.port}"
    try:
        yield running
    finally:
        running.stop(5)


def refused(**flags):
    """Return the line that the command prints for a configuration that cannot be used."""
    with pytest.raises(ConfigError) as caught, server(**flags):
        pass
    return server_command.line_of(caught.value)


def command(*flags, module="serving.server", errors=subprocess.PIPE, python=(), logs="3"):
    """Start a command, with options of Python's own; the caller reads its output."""
    # tfmot, in another test, sets this: then TensorFlow itself imports tf_keras.
    clean = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    environment = {**clean, "TF_CPP_MIN_LOG_LEVEL": logs}
    return subprocess.Popen(
        [sys.executable, *python, "-m", module, *flags],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment,
    )


class Running:
    """A server in a process of its own."""

    def __init__(self, *flags, **options):
        self.rest, self.grpc = free_port(), free_port()
        ports = f"--port={self.grpc}", f"--rest_api_port={self.rest}"
        self.process = command(*ports, *flags, **options)
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith("page"):
                break
        self.root = f"http://127.0.0.1:{self.rest}"
        self.url = f"{self.root}/v1/models"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=300)


def resident(pid):
    """Return the memory of a process in MiB."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def listed(*models):
    """Return a ModelServerConfig of (name, base path[, more]) as text."""
    texts = (
        f"config {{ name: '{name}' base_path: '{base}' {' '.join(more)} }}"
        for name, base, *more in models
    )
    return f"model_config_list {{ {' '.join(texts)} }}"


def wait_for(condition):
    """Return when a condition holds. Fails after five minutes, as the machine may have paused."""
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def half_plus(path, added):
    """Write the model of TF Serving's own documentation: x / 2 + `added`, x float32 [-1, 1].

    With its signatures that take tf.Examples: regress_x_to_y and classify_x_to_y.
    """
    module = tf.Module()
    module.a, module.b = tf.Variable(0.5), tf.Variable(float(added))
    features = {"x": tf.io.FixedLenFeature([1], tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
    def predict(x):
        return {"y": module.a * x + module.b}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(inputs):
        x = tf.io.parse_example(inputs, features)["x"]
        return {"outputs": module.a * x + module.b}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(inputs):
        y = module.a * tf.io.parse_example(inputs, features)["x"] + module.b
        names = tf.tile(tf.constant([["small", "large"]]), [tf.shape(y)[0], 1])
        return {"classes": names, "scores": tf.concat([-y, y], 1)}

    signatures = {
        "serving_default": predict,
        "regress_x_to_y": regress,
        "tensorflow/serving/regress": regress,
        "classify_x_to_y": classify,
    }
    _save(module, path, signatures)


def plus(path, added):
    """Write x / 2 + `added` with its default signature alone, which takes less time."""
    module = tf.Module()
    module.b = tf.Variable(float(added))

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
    def predict(x):
        return {"y": x / 2 + module.b}

    _save(module, path, {"serving_default": predict})


def all_kinds(path):
    """Write a model with a signature for whatever JSON and protos can hold."""
    module = tf.Module()

    def echo(dtype):
        @tf.function(input_signature=[tf.TensorSpec(None, dtype, "x")])
        def same(x):
            return {"x": tf.identity(x)}

        return same

    names = "float32 float64 float16 int8 int16 int32 int64 uint8 uint32 uint64 bool string"
    signatures = {f"echo_{name}": echo(getattr(tf, name)) for name in names.split()}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, "a"),
            tf.TensorSpec([None], tf.string, "b"),
        ]
    )
    def two(a, b):
        return {"sum": tf.reduce_sum(a, -1), "text_bytes": b, "twice": a * 2, "text": b}

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.float32, "pixels")])
    def image(pixels):
        kernel = tf.ones([3, 3, 3, 2])
        return {"out": tf.reduce_mean(tf.nn.conv2d(pixels, kernel, 1, "SAME"), [1, 2])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def decode(image_bytes):
        def one(content):
            return tf.cast(tf.shape(tf.io.decode_png(content)), tf.float32)

        return {"shape": tf.map_fn(one, image_bytes, fn_output_signature=tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "seconds")])
    def slow(seconds):
        def work(left, x):
            return left - 1, tf.linalg.matmul(x, x) / 32.0

        steps = tf.cast(tf.reduce_max(seconds) * 5000, tf.int32)
        _, x = tf.while_loop(lambda left, x: left > 0, work, (steps, tf.ones([32, 32])))
        return {"done": seconds * 0 + x[0, 0]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def no_bad(x):
        with tf.control_dependencies([tf.debugging.assert_greater_equal(x, 0.0, "negative")]):
            return {"y": tf.sqrt(x)}

    more = {"two": two, "serving_default": image, "decode": decode, "slow": slow, "no_bad": no_bad}
    _save(module, path, {**signatures, **more})


def colours(path, labels=("red", "green", "blue"), threshold=None):
    """Write a classifier of images with `serving_bytes`, as xkd_keras.export makes them.

    Earlier versions of it made them without a threshold.
    """
    module = tf.Module()
    module.names = tf.Variable(list(labels), trainable=False)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serving_bytes(image_bytes):
        def mean(content):
            image = tf.io.decode_image(content, 3, expand_animations=False)
            return tf.reduce_mean(tf.cast(image, tf.float32), [0, 1])

        logits = tf.map_fn(mean, image_bytes, fn_output_signature=tf.float32) / 20
        scores, classes = tf.math.top_k(tf.nn.softmax(logits), 3)
        answers = {"labels": tf.gather(module.names, classes), "scores": scores, "logits": logits}
        if threshold is not None:
            answers["threshold"] = tf.fill(tf.shape(image_bytes), threshold)
        return answers

    _save(module, path, {"serving_bytes": serving_bytes})


def picture(*colour):
    """Return a PNG file of one colour."""
    return tf.io.encode_png(np.full([6, 9, 3], colour, np.uint8)).numpy()


def _save(module, path, signatures):
    partial = path.parent / f".partial-{path.name}"
    tf.saved_model.save(module, str(partial), signatures=signatures)
    os.rename(partial, path)  # whoever watches sees it whole


def example(**features):
    """Return a tf.train.Example of numbers."""
    made = tf.train.Example()
    for name, value in features.items():
        made.features.feature[name].float_list.value.extend(np.ravel(value))
    return made


class FakeServable:
    """A servable that knows where it came from and whether it was closed."""

    def __init__(self, path):
        self.path, self.closed = path, threading.Event()

    def close(self):
        self.closed.set()


class Loads:
    """Loads fakes; fails for directories with a file `broken`."""

    def __init__(self):
        self.made = []

    def __call__(self, path, name):
        if (path / "broken").exists():
            raise invalid(f"Could not load version {path.name}: broken")
        self.made.append(FakeServable(path))
        return self.made[-1]


def publish_copy(version, base, number):
    """Add a copy of a version to a model, by rename: whoever watches sees it whole."""
    base.mkdir(exist_ok=True)
    shutil.copytree(version, base / ".partial")
    (base / ".partial").rename(base / str(number))


def publish(base, *numbers, broken=False):
    """Make directories of versions for `Loads`."""
    for number in numbers:
        (base / str(number)).mkdir(exist_ok=True)
        if broken:
            (base / str(number) / "broken").touch()
