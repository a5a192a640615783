"""What benchmarks of accuracy share: runs of xkd_keras.train in processes, and their intervals."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from xkd_keras.study.statistics import interval


def train(run_dir: Path, arguments: Sequence[str], jobs: int) -> dict:
    """Train, or go on, as one of `jobs` side by side; return what metrics.json holds."""
    line = [sys.executable, "-m", "xkd_keras.train", f"--run_dir={run_dir}", *arguments]
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    env = {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads}
    done = subprocess.run(line, env={**os.environ, **env}, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)  # the run has said why
    print(f"{run_dir}: done", flush=True)
    return json.loads((run_dir / "metrics.json").read_text())


def told(values: list[float], factor: float = 100, digits: int = 2, sign: str = "") -> str:
    """Return mean and 95 % interval."""
    found = interval(values)
    text = f"{factor * found['mean']:{sign}.{digits}f}"
    if found["low"] is None:
        return text
    return f"{text} ± {factor * (found['high'] - found['low']) / 2:.{digits}f}"


def of(result: dict, network: str) -> dict:
    """Return the scores of a peer, or of the ensemble, in what metrics.json holds."""
    return result["ensemble"] if network == "ensemble" else result["peers"][network]
