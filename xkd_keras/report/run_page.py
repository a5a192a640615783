"""What a person looks at after a run: report.md, the same as one self-contained page, and a table.

Everything is computed from what is in the run directory already; nothing here trains or needs
TensorFlow.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xkd_keras import files
from xkd_keras.console import few, many
from xkd_keras.data import duplicates, names
from xkd_keras.flags import effects
from xkd_keras.report import (
    by_class,
    curves,
    deployment_page,
    findings,
    headline,
    learning,
    mistakes,
    mistakes_page,
    page,
    plots,
    teaching,
    trust,
)
from xkd_keras.report.page import (
    circumstances,
    code,
    escape,
    grid,
    picture,
)
from xkd_keras.runs import answers, history

_MISTAKES = (
    "`mistakes.html` shows the most confident mistakes of the ensemble on validation and test"
    " images, with their files; wrong labels are often among them. `predictions.csv` lists every"
    " network's answer to each of these images."
)
_SHOWN = 50  # rows of a table that could have thousands


def write(run_dir: str | os.PathLike) -> Path:
    """Write RUN/report.html, the same as report.md and plots/, classes.csv and mistakes.html.

    Each is written whole or not at all; the path of the first is returned.

    Args:
        run_dir: Of a finished run: its metrics.json, logs/ and export/manifest.json are read.
    """
    run_dir = Path(run_dir)
    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    manifest = run_dir / "export" / "manifest.json"
    shipped = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else None
    answered = answers.read(run_dir)
    text, pictures = compose(metrics, history.read(run_dir), answered, shipped)
    for name, data in pictures.items():
        with files.whole(run_dir / "plots" / name) as beside:
            beside.write_bytes(data)
    classes = metrics["data"]["class_names"]
    table = by_class.table(answered.labels, answered.given, classes, shipped)
    files.write(run_dir / "classes.csv", table)
    if answered.mistakes:
        files.write(run_dir / "mistakes.html", mistakes_page.write(metrics, answered.mistakes))
    files.write(run_dir / "report.md", text)
    files.write(run_dir / "report.html", page.whole(headline.title(metrics), text, pictures))
    return run_dir / "report.html"


def write_if_trained(run_dir: Path) -> None:
    """Write the report of a run; the networks that a study keeps have no history, and no report."""
    if history.path(run_dir).exists():
        write(run_dir)


def compose(
    metrics: Mapping,
    rows: Sequence[Mapping],
    answered: answers.Answers,
    manifest: Mapping | None = None,
) -> tuple[str, dict[str, bytes]]:
    """Return the report as Markdown, and its pictures by file name.

    Args:
        metrics: What RUN/metrics.json holds.
        rows: One mapping per epoch, what RUN/logs/history.csv holds; may be empty.
        answered: The networks' answers on the test images.
        manifest: What RUN/export/manifest.json holds, if anything was exported.
    """
    labels = answered.labels
    given = {name: answered.given[name] for name in ["ensemble", *metrics["peers"]]}
    network = findings.shipped(metrics, manifest)
    shown = [name for name in answered.sure if len(metrics["peers"]) > 1 or name != "ensemble"]
    sure = {name: answered.sure[name] for name in shown}
    right = {name: given[name] == labels for name in shown}
    pictures = {
        **_draw(metrics, rows, answered.distill_weights),
        **mistakes.matrices(metrics, labels, given, network),
        **trust.draw(sure, right),
        **mistakes.gallery(metrics, answered, given),
        **(deployment_page.draw(manifest) if manifest else {}),
    }
    parts = [
        *headline.opening(metrics, len(labels)),
        *(deployment_page.section(manifest, pictures) if manifest else []),
        *_use(metrics, network),
        *_training(metrics, rows, answered.distill_weights, pictures),
        *teaching.section(metrics, rows),
        *learning.section(metrics, rows),
        *trust.section(metrics, pictures),
        *by_class.section(metrics, labels, given, network),
        *mistakes.confusions(metrics, labels, given, network, pictures),
        *([_MISTAKES] if answered.mistakes else []),
        *mistakes.disputes(labels, given),
        *_particulars(metrics),
    ]
    return "\n\n".join(parts) + "\n", pictures


def _draw(
    metrics: Mapping, rows: Sequence[Mapping], distill_weights: np.ndarray
) -> dict[str, bytes]:
    """Return the curves by file name, where there is something to draw."""
    with plots.style():
        figures = curves.charts(rows, list(metrics["peers"]), distill_weights) if rows else {}
        return {f"{name}.svg": plots.render(figure, "svg") for name, figure in figures.items()}


def _use(metrics: Mapping, network: str) -> list[str]:
    """Return how to use the network that a person ships, and how to repeat the run."""
    file = metrics["peers"][network]["file"]
    height, width, channels = metrics["data"]["image_shape"]
    config = metrics["config"]
    augment = config.get("augment", "auto")
    ratio = names.resolve(config["dataset"], None, (height, width), augment).crop_ratio
    bleed = f", bleed={(1 - ratio) / 2:g}" if ratio < 1 else ""
    share = f" and to {100 * ratio:g} % of the sides" if ratio < 1 else ""
    return [
        "## Use a model",
        "Run this in the run's directory; it needs only Keras and Pillow. A model takes plain"
        f" pixels, 0..255, in images of {height} × {width} × {channels}. As in evaluation, the"
        " code turns an image upright, lays it on white, crops its centre to these"
        f" proportions{share}, and scales it:",
        code(
            "import json\n"
            "\n"
            "import keras\n"
            "import numpy as np\n"
            "from PIL import Image, ImageOps\n"
            "\n"
            f"model = keras.models.load_model({file!r})\n"
            "image = ImageOps.exif_transpose(Image.open('IMAGE'))\n"
            "if image.mode[0] == 'I':  # 16 bits of grey, which Pillow would clip\n"
            "    image = Image.fromarray(np.uint8(np.asarray(image) // 256))\n"
            "white = Image.new('RGBA', image.size, 'white')\n"
            "image = Image.alpha_composite(white, image.convert('RGBA')).convert('RGB')\n"
            f"image = ImageOps.fit(image, {(width, height)}, Image.Resampling.BILINEAR{bleed})\n"
            "names = json.load(open('metrics.json'))['data']['class_names']\n"
            "print(names[model.predict(np.float32(image)[None]).argmax()])"
        ),
        "## Repeat the run",
        "Run this in the directory where the run was started; its relative paths begin there:",
        code(metrics["command"]),
    ]


def _training(
    metrics: Mapping, rows: Sequence[Mapping], distill_weights: np.ndarray, pictures: Mapping
) -> list[str]:
    """Return when the teacher taught, and the curves."""
    on, most = distill_weights > 0, np.max(distill_weights, initial=0)
    alone = len(metrics["peers"]) == 1 and not metrics["config"].get("teacher_run")
    if curves.varies(distill_weights) and not alone:
        teaching = (
            f"Shading marks when the teacher taught: {many(len(plots.spans(on)), 'window')},"
            f" {100 * on.mean():.0f} % of {len(on):,} steps, with a weight λ of up to {most:g}."
        )
    elif most and not alone:
        teaching = (
            f"The networks were taught in all {len(on):,} steps, with a weight λ of {most:g}."
        )
    elif most:
        teaching = "A single network has no teacher: it learned from the labels alone."
    else:
        teaching = (
            "The teacher's weight λ was 0 throughout: every network learned from the labels alone."
        )
    if any(name.endswith("_heard") for row in rows for name in row):
        teaching += (
            " The better its teachers fit the training images, the more a network learns from"
            " their logits: λ is multiplied by the share that is drawn as “heard”."
        )
    words = {
        "accuracy.svg": "Top-1 accuracy over the epochs",
        "cross_entropy.svg": "Cross-entropy over the epochs",
        "teaching.svg": "What each network was taught, how far it heard its teacher, and agreement",
        "learning_rate.svg": "Learning rate over the epochs",
    }
    drawn = [picture(name, alt) for name, alt in words.items() if name in pictures]
    return ["## How training went", teaching, *drawn]


def _particulars(metrics: Mapping) -> list[str]:
    """Return data, settings and versions."""
    data = metrics["data"]
    rows = [[split, f"{count:,}"] for split, count in data["examples"].items()]
    parts = [
        "## Data",
        grid(["split", "images"], rows),
        f"{len(data['class_names']):,} classes, images of"
        f" {' × '.join(map(str, data['image_shape']))}; fingerprint {escape(data['fingerprint'])}.",
    ]
    parts += [escape(note) for note in data.get("notes", ())]
    if data.get("skipped"):
        parts += _skipped(data["skipped"])
    if data.get("duplicates"):
        parts += _duplicates(data["duplicates"])
    unused = effects.unused(metrics["method"], metrics["config"].get("teacher", "auto"))
    settings = {name: value for name, value in metrics["config"].items() if name not in unused}
    return [*parts, *circumstances(settings, metrics["versions"])]


def _skipped(pairs: Sequence) -> list[str]:
    """Return what is said of files that cannot be read; data.json has all of them."""
    shown = [[escape(file), escape(reason)] for file, reason in pairs[:_SHOWN]]
    return [
        f"Left out: {many(len(pairs), 'unreadable file')}.",
        grid(["file", "reason"], shown, words=2),
        *_more(pairs, "files"),
    ]


def _more(rows: Sequence, noun: str) -> list[str]:
    return [f"RUN/data.json lists all {len(rows):,} {noun}."] if len(rows) > _SHOWN else []


def _duplicates(groups: Sequence) -> list[str]:
    """Return what is said of files with the same content; data.json has all of them."""
    dropped = all(what == "left out" for what, _ in groups)
    kind = many(len(groups), "file" if dropped else "group")
    text = (
        f"Left out: {kind} with the same content as another file, or under two labels."
        if dropped
        else f"Warning: {kind} of identical files, in two splits or under two labels. Files in"
        " both train and test make the result look better than it is; --duplicates=drop removes"
        " them."
    )
    shown = [
        [escape(few(paths, duplicates.TOLD, " = ")), escape(what)]
        for what, paths in groups[:_SHOWN]
    ]
    return [text, grid(["files", "what is wrong"], shown, words=2), *_more(groups, "groups")]
