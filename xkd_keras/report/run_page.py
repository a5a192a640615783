"""What a person looks at after a run: report.md, the same as one self-contained page, and a table.

Everything is computed from what is in the run directory already; nothing here trains or needs
TensorFlow.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from xkd_keras import files
from xkd_keras.report.run_page import deployment_page, findings, page, plots
from xkd_keras.report.run_page.page import (
    aligned,
    both,
    circumstances,
    code,
    escape,
    grid,
    many,
    picture,
)

_PAIRS, _IMAGES = 10, 12  # shown of confusions and disputed images
# heading, key of metrics.json, factor, format
_COLUMNS = (
    ("top-1 %", "top1", 100, "{:.2f}"),
    ("top-5 %", "top5", 100, "{:.2f}"),
    ("cross-entropy", "cross_entropy", 1, "{:.4f}"),
    ("parameters", "parameters", 1, "{:,.0f}"),
    ("ms/image", "milliseconds_per_image", 1, "{:.2f}"),
)


class Predictions(Protocol):
    """What the networks answered on the test images.

    Attributes:
        labels: int [n], the true classes.
        logits: Each peer and "ensemble" -> float32 [n, classes].
    """

    labels: np.ndarray
    logits: Mapping[str, np.ndarray]

    def fetch(self, indices: Sequence[int]) -> np.ndarray:
        """Return test images, uint8 [len(indices), height, width, channels]."""


def write(
    run_dir: str | os.PathLike,
    metrics: Mapping,
    history: Sequence[Mapping],
    predictions: Predictions,
    weights: np.ndarray,
    manifest: Mapping | None = None,
) -> Path:
    """Write RUN/plots, RUN/report.md, RUN/report.html, each whole or not at all; return the last.

    Args:
        run_dir: The run's directory.
        metrics: What RUN/metrics.json holds.
        history: One mapping an epoch, what RUN/logs/history.csv holds; may be empty.
        predictions: The networks' answers on the test images.
        weights: [steps], the distillation weight at every training step.
        manifest: What RUN/export/manifest.json holds, if anything was exported.
    """
    run_dir = Path(run_dir)
    labels = np.asarray(predictions.labels)
    everyone = ["ensemble", *metrics["peers"]]
    answers = {name: np.argmax(predictions.logits[name], axis=-1) for name in everyone}
    disputed = findings.disagreements(labels, answers)
    counts = findings.confusion(labels, answers["ensemble"], len(metrics["data"]["class_names"]))
    pictures = {
        **_draw(metrics, history, weights, counts),
        **_gallery(metrics, predictions, answers, disputed),
        **(deployment_page.draw(manifest) if manifest else {}),
    }
    for name, data in pictures.items():
        with files.whole(run_dir / "plots" / name) as beside:
            beside.write_bytes(data)
    parts = [
        *_opening(metrics, len(labels)),
        *(deployment_page.section(manifest, pictures) if manifest else []),
        *_use(metrics),
        *_training(weights, pictures),
        *_confusions(metrics, labels, answers, counts, pictures),
        *_disputes(labels, answers, disputed),
        *_particulars(metrics),
    ]
    text = "\n\n".join(parts) + "\n"
    files.write(run_dir / "report.md", text)
    files.write(run_dir / "report.html", page.whole(_title(metrics), text, pictures))
    return run_dir / "report.html"


def table(metrics: Mapping) -> str:
    """Return the result as aligned plain text: a line a peer, the ensemble last."""
    headings, rows = _results(metrics)
    return aligned([["peer", *headings], *([name, *cells] for name, cells in rows.items())])


def _results(metrics: Mapping) -> tuple[list[str], dict[str, list[str]]]:
    """Return the headings of the numbers and each network's cells; top-5 only if measured."""
    networks = dict(metrics["peers"])
    if len(networks) > 1:  # else the ensemble is the peer
        networks["ensemble"] = metrics["ensemble"]
    columns = [c for c in _COLUMNS if c[1] != "top5" or "top5" in metrics["ensemble"]]
    rows = {
        name: [
            "–" if values.get(key) is None else form.format(values[key] * factor)
            for _, key, factor, form in columns
        ]
        for name, values in networks.items()
    }
    return [heading for heading, *_ in columns], rows


def _draw(
    metrics: Mapping, history: Sequence[Mapping], weights: np.ndarray, counts: np.ndarray
) -> dict[str, bytes]:
    """Return the curves and the confusion matrix by file name, where there is something to draw."""
    names, shown = metrics["data"]["class_names"], findings.classes_shown(counts)
    with plots.style():
        figures = plots.charts(history, list(metrics["peers"]), weights) if history else {}
        if shown:
            part = counts[np.ix_(shown, shown)]
            figures["confusion"] = plots.confusion(part, [names[i] for i in shown])
        return {f"{name}.svg": plots.render(figure, "svg") for name, figure in figures.items()}


def _gallery(
    metrics: Mapping,
    predictions: Predictions,
    answers: Mapping[str, np.ndarray],
    disputed: np.ndarray,
) -> dict[str, bytes]:
    """Return the picture of the first disputed images by file name, if there are any."""
    if not disputed.size:
        return {}
    some = disputed[:_IMAGES]
    given = {name: answer[some] for name, answer in answers.items()}
    labels = np.asarray(predictions.labels)[some]
    with plots.style():
        figure = plots.gallery(
            predictions.fetch(some), labels, given, metrics["data"]["class_names"]
        )
        return {"disagreements.png": plots.render(figure, "png")}


def _opening(metrics: Mapping, n: int) -> list[str]:
    """Return the title and the result, in words and in numbers."""
    peers, training = metrics["peers"], metrics["training"]
    headings, results = _results(metrics)
    rows = []
    for name, cells in results.items():
        values = peers.get(name, metrics["ensemble"])
        low, high = findings.wilson(values["top1"], n)
        interval = f"{100 * low:.1f} – {100 * high:.1f}"
        rows.append([escape(name), cells[0], interval, *cells[1:]])
    agreement = (
        f" Two peers give the same answer on {100 * metrics['agreement']:.1f} % of them"
        f"{' (the mean over all pairs)' if len(peers) > 2 else ''}."
    )
    return [
        f"# {escape(_title(metrics))}",
        _sentence(metrics),
        f"Method {escape(metrics['method'])}, seed {metrics['seed']};"
        f" {many(training['epochs'], 'epoch')} ({training['steps']:,} steps of"
        f" {many(training['batch_size'], 'image')}) in {_duration(training['seconds'])},"
        f" {training['steps_per_second']:.1f} steps a second,"
        f" finished {escape(metrics['created'][:16].replace('T', ' '))} UTC."
        f"{_skipped(training.get('skipped', {}))}",
        "## Result",
        grid(["", headings[0], "95 % interval", *headings[1:]], rows),
        f"Measured on {n:,} test images. The interval is Wilson's, for top-1: what the choice of so"
        f" many images leaves open. Parameters are the trainable ones."
        f"{agreement if len(peers) > 1 else ''}",
    ]


def _skipped(counts: Mapping[str, int]) -> str:
    told = [f"{escape(name)} sat out {many(n, 'step')}" for name, n in counts.items() if n]
    return f" {both(told)}: loss or gradients were not finite." if told else ""


def _sentence(metrics: Mapping) -> str:
    peers, ensemble = metrics["peers"], metrics["ensemble"]
    best = max(peers, key=lambda name: (peers[name]["top1"], -peers[name]["parameters"]))
    together = f"; the ensemble of {len(peers)} peers {100 * ensemble['top1']:.1f} %"
    together = together if len(peers) > 1 else ""
    if findings.guesses(peers[best]["top1"], metrics["data"]):
        together += ". That is no better than guessing: train longer, or look at the learning rates"
    return (
        f"**{escape(best)}** reaches **{100 * peers[best]['top1']:.1f} %** top-1 on"
        f" {escape(metrics['dataset'])} with {peers[best]['parameters'] / 1e6:.2f} M parameters"
        f"{together}."
    )


def _title(metrics: Mapping) -> str:
    names = list(metrics["peers"])
    return f"{both(names) if len(names) < 4 else f'{len(names)} peers'} on {metrics['dataset']}"


def _use(metrics: Mapping) -> list[str]:
    """Return how to use a peer, and how to repeat the run."""
    peers = metrics["peers"]
    small = min(peers, key=lambda name: peers[name]["parameters"])
    size = metrics["data"]["image_shape"]
    shape = " × ".join(map(str, size))
    return [
        "## Use a model",
        f"In this directory, with nothing but Keras. A model takes pixels as they are, 0..255, in"
        f" images of {shape}; as in evaluation, an image is scaled until it covers that size, and"
        " its centre is used:",
        code(
            "import keras\n"
            f"model = keras.models.load_model({peers[small]['file']!r})\n"
            f"image = keras.utils.load_img('IMAGE', target_size={tuple(size[:2])},\n"
            "                             interpolation='bilinear', keep_aspect_ratio=True)\n"
            "pixels = keras.utils.img_to_array(image)\n"
            "print(model.predict(pixels[None]).argmax())"
        ),
        "What it prints is a position in `data.class_names` of `metrics.json`.",
        "## Repeat the run",
        "Where it was started (paths in its settings are read from there):",
        code(metrics["command"]),
    ]


def _training(weights: np.ndarray, pictures: Mapping) -> list[str]:
    """Return when the teacher taught, and the curves."""
    on = np.asarray(weights) > 0
    windows = len(plots.spans(on))
    if windows:
        teaching = (
            f"Shaded is when the ensemble taught the peers: {many(windows, 'window')},"
            f" {100 * on.mean():.0f} % of {len(on):,} steps, with a weight λ of up to"
            f" {np.max(weights):g}."
        )
    else:
        teaching = "The teacher's weight λ was 0 throughout: every peer learned from labels alone."
    words = {
        "accuracy.svg": "Top-1 accuracy over the epochs",
        "cross_entropy.svg": "Cross-entropy over the epochs",
        "teaching.svg": "Distance of each peer to its teacher, the teacher's weight, agreement",
        "learning_rate.svg": "Learning rate over the epochs",
    }
    drawn = [picture(name, alt) for name, alt in words.items() if name in pictures]
    return ["## How training went", teaching, *drawn]


def _confusions(
    metrics: Mapping,
    labels: np.ndarray,
    answers: Mapping[str, np.ndarray],
    counts: np.ndarray,
    pictures: Mapping,
) -> list[str]:
    """Return the confusion matrix and the most frequent confusions, the peers' beside them."""
    names = [escape(name) for name in metrics["data"]["class_names"]]
    pairs = findings.confused_pairs(counts)
    parts = ["## What the ensemble confuses"]
    if "confusion.svg" in pictures:
        if len(names) > findings.MATRIX:
            shown = len(findings.classes_shown(counts))
            parts.append(f"The {shown} classes most often confused, of {len(names):,}:")
        parts.append(picture("confusion.svg", "Confusion matrix of the ensemble"))
    if not pairs:
        return [*parts, f"Nothing: it is right on all {len(labels):,} test images."]
    rows = []
    for true, answer, _ in pairs[:_PAIRS]:
        same = [np.sum((labels == true) & (given == answer)) for given in answers.values()]
        rows.append([names[true], names[answer], *map(str, same)])
    return [
        *parts,
        f"The most frequent of its {many(sum(pair[2] for pair in pairs), 'mistake')}, and how"
        " often each peer makes the same one:",
        grid(["true", "answered", *map(escape, answers)], rows, words=2),
    ]


def _disputes(
    labels: np.ndarray, answers: Mapping[str, np.ndarray], disputed: np.ndarray
) -> list[str]:
    """Return where the peers and the ensemble differ, and who is right then."""
    parts = ["## Where the networks differ"]
    if not disputed.size:
        return [*parts, "Nowhere: every peer gives the ensemble's answer on every test image."]
    teacher = answers["ensemble"]
    rows = []
    for name, given in answers.items():
        if name != "ensemble":
            differs = given != teacher
            right, taught = differs & (given == labels), differs & (teacher == labels)
            counts = (differs, right, taught, differs & ~right & ~taught)
            rows.append([escape(name), *(f"{count.sum():,}" for count in counts)])
    return [
        *parts,
        f"On {disputed.size:,} of {len(labels):,} test images a peer differs from the ensemble.",
        grid(["", "differs", "peer right", "ensemble right", "both wrong"], rows),
        "Those on which the most peers differ (✓ right, ✗ wrong):",
        picture("disagreements.png", "Test images with what every network answered"),
    ]


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
    if data.get("skipped"):
        skipped = [[escape(file), escape(reason)] for file, reason in data["skipped"]]
        parts += [
            f"Left out: {many(len(skipped), 'unreadable file')}.",
            grid(["file", "reason"], skipped, words=2),
        ]
    return [*parts, *circumstances(metrics["config"], metrics["versions"])]


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {round(seconds) % 60} s" if minutes else f"{seconds:.0f} s"
