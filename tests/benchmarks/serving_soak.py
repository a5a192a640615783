"""Does a server's memory stay flat under mixed load: gRPC, REST, errors, new versions?

python tests/benchmarks/serving_soak.py --model=RUN/export/savedmodel/resnet20/1 [--minutes=10]

Prints resident memory, threads and open files (Linux: read from /proc), the least of each half
minute, as two versions are there while one takes the other's place; and the line fitted through the
second half.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from absl import app, flags

flags.DEFINE_string("model", None, "A SavedModel's directory.", required=True)
flags.DEFINE_float("minutes", 10, "How long.")
flags.DEFINE_float("every", 30, "Seconds between two lines.")
flags.DEFINE_float("reload", 60, "Seconds between two versions of the model.")
ROOT = Path(__file__).parent.parent.parent
PAUSE = 0.02  # seconds between two requests of a client


def ask(address: str, counts: Counter, stop: threading.Event) -> None:
    """Send good and bad requests over gRPC until told to stop."""
    import grpc
    import numpy as np
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    random = np.random.default_rng(0)
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        while not stop.wait(PAUSE):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "soak"
            colours = random.choice([3, 3, 3, 4])  # the last is of no image of this model
            images = random.uniform(0, 255, (random.integers(1, 9), 32, 32, colours))
            request.inputs["pixels"].CopyFrom(tf.make_tensor_proto(images.astype(np.float32)))
            try:
                stub.Predict(request, timeout=30)
                counts["gRPC"] += 1
            except grpc.RpcError as error:
                counts[f"gRPC {error.code().name}"] += 1


def post(url: str, counts: Counter, stop: threading.Event) -> None:
    """Send good and bad requests over REST until told to stop."""
    import numpy as np
    import requests

    random = np.random.default_rng(1)
    with requests.Session() as session:
        while not stop.wait(PAUSE):
            images = random.integers(0, 256, (random.integers(1, 5), 32, 32, 3)).tolist()
            body = json.dumps({"inputs": images})
            if random.integers(4) == 0:
                body = body[: random.integers(len(body))]
            code = session.post(url, body, timeout=30).status_code
            counts[f"REST {code}"] += 1


def state(pid: int) -> tuple[float, int, int]:
    """Return a process's resident memory in MiB, its threads, and its open files."""
    from tests.serving.served_models import resident

    counts = (len(list(Path(f"/proc/{pid}/{kind}").iterdir())) for kind in ("task", "fd"))
    return resident(pid), *counts


def main(_):
    """Load the server, with new versions; print its state, and how that changes."""
    import numpy as np

    from tests.serving.served_models import Running

    given, rows, counts, stop = flags.FLAGS, [], Counter(), threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        shutil.copytree(given.model, base / "1")
        command = "--model_name=soak", "--enable_batching", f"--model_base_path={base}"
        with Running(*command, errors=subprocess.DEVNULL) as server:
            grpc, rest = f"127.0.0.1:{server.grpc}", f"{server.url}/soak:predict"
            threads = [
                threading.Thread(target=ask, args=(grpc, counts, stop)),
                threading.Thread(target=post, args=(rest, counts, stop)),
            ]
            for thread in threads:
                thread.start()
            print("| minute | MiB | threads | open files |\n|---|---|---|---|")
            begin, version, seen = time.monotonic(), 1, []
            while (seconds := time.monotonic() - begin) < 60 * given.minutes:
                seen.append(state(server.process.pid))
                if seconds >= (len(rows) + 1) * given.every:
                    rows.append((seconds / 60, *map(min, zip(*seen, strict=True))))
                    seen.clear()
                    print("| {:.1f} | {:.0f} | {} | {} |".format(*rows[-1]), flush=True)
                if seconds >= version * given.reload:
                    version += 1
                    shutil.copytree(given.model, base / ".partial")
                    (base / ".partial").rename(base / str(version))
                time.sleep(0.5)
            stop.set()
            for thread in threads:
                thread.join()
    late = np.array(rows[len(rows) // 2 :])
    print(f"second half: {np.polyfit(late[:, 0], late[:, 1], 1)[0]:+.2f} MiB a minute")
    print(f"answers: {dict(counts)}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    app.run(main)
