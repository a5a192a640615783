"""How long one image takes: all files over and over, on one thread of a fresh process.

In rounds, because a machine's speed drifts: in one round each file has the same machine. Each round
has an order of its own, because a file that runs after a large one finds the caches full. The
minimum and the median repeat within a few percent, means do not.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xkd_keras.devices import start_up
from xkd_keras.errors import first_line

ROUNDS, SECONDS = 50, 30  # as many rounds as this, or until this much time has passed
_FEWEST, _WARM = 10, 3


def measure(paths: Sequence[Path], image: np.ndarray) -> list[dict[str, float] | str]:
    """Return milliseconds of one image, `min` and `median`, of each file or SavedModel.

    Of what cannot be measured it returns the reason: that is not to cost what was exported.

    Args:
        paths: Files (.tflite, .onnx) and directories.
        image: [H, W, C], pixels 0..255.
    """
    request = {"paths": [str(path) for path in paths], "image": np.asarray(image).tolist()}
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        killed = "the system killed it, perhaps for lack of memory"
        reason = killed if done.returncode < 0 else (done.stderr.strip() or "unknown")
        return [f"measuring failed: {reason.splitlines()[-1]}"] * len(paths)
    return json.loads(done.stdout)


def interleaved(calls: Sequence[Callable[[], object]], rounds: int, seconds: float) -> np.ndarray:
    """Return the milliseconds of each call in each round: [rounds done, calls]."""
    for call in calls:
        for _ in range(_WARM):
            call()
    began, times, order = time.perf_counter(), [], np.random.default_rng(0)
    while len(times) < rounds and (len(times) < _FEWEST or time.perf_counter() - began < seconds):
        row = np.zeros(len(calls))
        for i in order.permutation(len(calls)):
            start = time.perf_counter()
            calls[i]()
            row[i] = 1000 * (time.perf_counter() - start)
        times.append(row)
    return np.array(times)


def _call(path: Path, image: np.ndarray) -> Callable[[], object]:
    from xkd_keras.ship import lite, onnx_file, savedmodel

    if path.suffix == ".tflite":
        model = lite.Lite(path.read_bytes(), threads=1)
        return lambda: model([image])
    if path.suffix == ".onnx":
        model = onnx_file.Onnx(path.read_bytes(), threads=1)
        return lambda: model(image[None])
    model = savedmodel.Caller(path)
    return lambda: model(image[None])


def _main(request: Mapping) -> list[dict[str, float] | str]:
    start_up.load_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return _timed([Path(path) for path in request["paths"]], np.array(request["image"], np.float32))


def _timed(paths: Sequence[Path], image: np.ndarray) -> list[dict[str, float] | str]:
    """Return what `measure` does, in this process."""
    found: list = [""] * len(paths)
    calls = {}
    for i, path in enumerate(paths):
        try:
            call = _call(path, image)
            call()
        except Exception as error:  # three libraries' own
            found[i] = first_line(error)
        else:
            calls[i] = call
    times = interleaved(list(calls.values()), ROUNDS, SECONDS)
    for i, each in zip(calls, times.T, strict=True):
        found[i] = {"min": round(float(each.min()), 4), "median": round(float(np.median(each)), 4)}
    return found


if __name__ == "__main__":
    print(json.dumps(_main(json.load(sys.stdin))))
