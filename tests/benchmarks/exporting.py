"""How long does an export take? Of the quickstart's networks, and of a MobileNetV2 at 64 pixels.

python tests/benchmarks/exporting.py [--work=DIRECTORY]

The networks are trained first, for a few steps: how well they answer does not matter here. An
export makes, runs back and measures every artifact that is made where nothing is chosen.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measured
from absl import app, flags

flags.DEFINE_string("work", "", "Where the runs are kept; empty: nowhere.")
CASES = {
    "AlexNet and ResNet-20, 32 pixels": ("--flagfile=quickstart", "--epochs=1"),
    "MobileNetV2, 64 pixels": (
        *("--dataset=digits", "--image_size=64", "--peer=mobilenet_v2"),
        *("--epochs=1", "--train_examples=64", "--batch_size=32"),
    ),
}


def command(*arguments: str) -> float:
    """Run one of our commands; return the seconds that it took."""
    began = time.perf_counter()
    line = [sys.executable, "-m", *arguments]
    subprocess.run(line, cwd=measured.ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


def main(_):
    """Print a table."""
    measured.circumstances()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, options) in enumerate(CASES.items()):
            run_dir = Path(flags.FLAGS.work or folder).absolute() / f"run-{i}"
            command("xkd_keras.train", *options, f"--run_dir={run_dir}")
            seconds = command("xkd_keras.export", f"--run_dir={run_dir}")
            made = list((run_dir / "export").glob("tflite/*"))
            made += list((run_dir / "export").glob("savedmodel/*"))
            rows.append([name, len(made), seconds])
    measured.table(["networks", "artifacts", "seconds"], rows)


if __name__ == "__main__":
    app.run(main)
