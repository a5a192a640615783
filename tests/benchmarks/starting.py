"""What is a start from trained weights worth on few images? Scratch against start, over seeds.

python tests/benchmarks/starting.py --images=IMAGENET100-32 --signs=SIGNS --work=DIRECTORY
    [--jobs=2] [--small]

Two networks are trained on every other class of IMAGENET100-32, each alone. Then they learn few
images of the classes between, and of SIGNS: from scratch, from those weights, and from those
weights with their last layer alone first; each alone (solo) and co-trained (xkd). Every part is a
run or a study of xkd_keras in DIRECTORY: the same command goes on where it was stopped. The table
is written to DIRECTORY/table.md. `--small` takes minutes, and shows only that it works.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from absl import app, flags
from train_runs import told

flags.DEFINE_string("images", None, "imagenet100-32: train/CLASS and test/CLASS.", required=True)
flags.DEFINE_string("signs", None, "One folder per class.", required=True)
flags.DEFINE_string("work", None, "Where everything is kept.", required=True)
flags.DEFINE_integer("seeds", 5, "Seeds of every comparison.")
flags.DEFINE_integer("jobs", 1, "Runs of a study side by side.", 1)
flags.DEFINE_bool("small", False, "A few steps of everything.")

PEERS = ("alexnet", "resnet20")
METHODS = ("solo", "xkd")
# What each peer is given; {} is the trained network's file. Rates are those that suit it: from
# trained weights a tenth; with a new last layer alone first, the whole one, a tenth for the others.
FULL = {"alexnet": 0.01, "resnet20": 0.1}
BEGINNINGS = {
    "scratch": "{peer}",
    "start": "{peer},start={file}",
    "freeze": "{peer},start={file},freeze={freeze},start_rate=0.1,learning_rate={rate}",
}
# In bfloat16, which takes less time on CPUs that compute in it, for all alike.
SCHEDULE = ("--learning_rate_schedule=cosine", "--image_size=32", "--mixed_precision=bfloat16")


def command(name: str, *arguments: str) -> None:
    """Run one of our commands to its end, or stop with it."""
    result = subprocess.run([sys.executable, "-m", f"xkd_keras.{name}", *arguments], check=False)
    if result.returncode:
        sys.exit(result.returncode)


def halves(images: Path, work: Path, small: bool) -> dict[str, Path]:
    """Return folders of every other class, and of the classes between, as links."""
    classes = sorted(path.name for path in (images / "train").iterdir() if path.is_dir())
    classes = classes[:12] if small else classes
    places = {"trained": classes[::2], "new": classes[1::2]}
    for place, chosen in places.items():
        for part in ("train", "test"):
            (work / place / part).mkdir(parents=True, exist_ok=True)
            for each in chosen:
                link = work / place / part / each
                if not link.exists():
                    link.symlink_to((images / part / each).resolve())
    return {place: work / place for place in places}


def pretrained(folder: Path, work: Path, small: bool) -> Path:
    """Train the networks, each alone; return the directory of the run."""
    run, size = work / "pretrained", ("--epochs=15", "--batch_size=128")
    if small:
        size = ("--epochs=2", "--batch_size=64", "--train_examples=2000")
    peers = [f"--peer={peer}" for peer in PEERS]
    where = [f"--run_dir={run}", f"--dataset=folder:{folder}", "--method=solo"]
    command("train", *where, *peers, *size, *SCHEDULE, "--warmup_epochs=1", "--augment=crop_flip")
    return run


def compared(data: str, folder: Path, run: Path, work: Path, examples: int) -> dict:
    """Run a study for each beginning; return top-1 by (beginning, method, peer): one per seed."""
    values, found = flags.FLAGS, {}
    epochs, freeze = (3, 1) if values.small else (40, 7)
    seeds = 1 if values.small else values.seeds
    augment = "crop" if data == "signs" else "crop_flip"
    for beginning, given in BEGINNINGS.items():
        study = work / f"{data}-{beginning}"
        peers = [
            given.format(
                peer=peer, file=run / "peers" / f"{peer}.keras", freeze=freeze, rate=FULL[peer]
            )
            for peer in PEERS
        ]
        command(
            "study",
            f"--run_dir={study}",
            f"--dataset=folder:{folder}",
            f"--train_examples={examples}",
            *(f"--peer={peer}" for peer in peers),
            *(f"--compare={method}" for method in METHODS),
            f"--seeds={seeds}",
            f"--jobs={values.jobs}",
            f"--epochs={epochs}",
            "--batch_size=32",
            "--warmup_epochs=1",
            f"--augment={augment}",
            *SCHEDULE,
        )
        for method in METHODS:
            runs = [study / "runs" / method / f"seed-{seed}.json" for seed in range(seeds)]
            results = [json.loads(path.read_text())["peers"] for path in runs]
            for peer in PEERS:
                found[beginning, method, peer] = [each[peer]["top1"] for each in results]
    return found


def table(data: str, examples: int, found: dict) -> str:
    """Return top-1 of each peer, alone and co-trained, and what a start adds, paired by seed."""
    lines = [
        f"{data}, {examples} training images, top-1 in %:",
        "",
        "| | "
        + " | ".join(f"{b}, {m}" for b in BEGINNINGS for m in METHODS)
        # Of co-training, which is what the program is for.
        + " | start − scratch, solo | start − scratch, xkd | xkd − solo, start |",
        "|---" * (len(BEGINNINGS) * len(METHODS) + 4) + "|",
    ]
    for peer in PEERS:

        def apart(one, two, peer=peer):
            return told(np.subtract(found[(*one, peer)], found[(*two, peer)]).tolist())

        cells = [told(found[b, m, peer]) for b in BEGINNINGS for m in METHODS]
        cells += [apart(("start", method), ("scratch", method)) for method in METHODS]
        cells.append(apart(("start", "xkd"), ("start", "solo")))
        lines.append(f"| {peer} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(_):
    """Do what is not done yet; print and write the table."""
    values = flags.FLAGS
    work = Path(values.work)
    folders = halves(Path(values.images), work, values.small)
    run = pretrained(folders["trained"], work, values.small)
    parts = []
    for data, folder, examples in (
        ("new classes", folders["new"], 120 if values.small else 500),  # 10 a class
        ("signs", Path(values.signs), 200),  # 20 a class
    ):
        found = compared(data.partition(" ")[0], folder, run, work, examples)
        parts.append(table(data, examples, found))
        print(parts[-1], flush=True)
    (work / "table.md").write_text("\n".join(parts))


if __name__ == "__main__":
    app.run(main)
