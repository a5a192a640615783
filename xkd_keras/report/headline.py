"""What a run has reached: the title, the sentence and the table that open its report."""

from collections.abc import Mapping

from xkd_keras.console import many
from xkd_keras.report import findings
from xkd_keras.report.page import aligned, both, escape, grid

# heading, key of metrics.json, factor, format
_COLUMNS = (
    ("top-1 %", "top1", 100, "{:.2f}"),
    ("balanced %", "balanced_accuracy", 100, "{:.2f}"),
    ("top-5 %", "top5", 100, "{:.2f}"),
    ("cross-entropy", "cross_entropy", 1, "{:.4f}"),
    ("Brier", "brier", 1, "{:.3f}"),
    ("ECE %", "ece", 100, "{:.1f}"),
    ("parameters", "parameters", 1, "{:,.0f}"),
    ("ms/image", "milliseconds_per_image", 1, "{:.2f}"),
)


def table(metrics: Mapping) -> str:
    """Return the result as aligned plain text: one line per peer, the ensemble last."""
    headings, rows = _results(metrics)
    return aligned([["peer", *headings], *([name, *cells] for name, cells in rows.items())])


def _results(metrics: Mapping) -> tuple[list[str], dict[str, list[str]]]:
    """Return the headings of the numbers and each network's cells.

    Top-5 only where it was measured, balanced accuracy where the classes are uneven.
    """
    networks = dict(metrics["peers"])
    if len(networks) > 1:  # else the ensemble is the peer
        networks["ensemble"] = metrics["ensemble"]
    uneven = findings.uneven(metrics["data"])
    there = {"top5": "top5" in metrics["ensemble"], "balanced_accuracy": uneven}
    columns = [c for c in _COLUMNS if there.get(c[1], True)]
    rows = {
        name: [
            "–" if values.get(key) is None else form.format(values[key] * factor)
            for _, key, factor, form in columns
        ]
        for name, values in networks.items()
    }
    return [heading for heading, *_ in columns], rows


def opening(metrics: Mapping, n: int) -> list[str]:
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
        f" Two networks give the same answer on {100 * metrics['agreement']:.1f} % of the test"
        f" images{' (the mean over all pairs)' if len(peers) > 2 else ''}."
    )
    return [
        f"# {escape(title(metrics))}",
        sentence(metrics),
        f"Method {escape(metrics['method'])}, seed {metrics['seed']};"
        f" {many(training['epochs'], 'epoch')} ({training['steps']:,} steps of"
        f" {many(training['batch_size'], 'image')}) in {_duration(training['seconds'])},"
        f" {training['steps_per_second']:.1f} steps per second,"
        f" finished {escape(metrics['created'][:16].replace('T', ' '))} UTC."
        f"{_skipped(training.get('skipped', {}))}",
        "## Result",
        grid(["", headings[0], "95 % interval", *headings[1:]], rows),
        f"Measured on {n:,} test images{_largest(metrics)}.{_trained_on(metrics['data'])} The"
        " interval is Wilson's 95 % interval for top-1: how much the choice of test images may"
        " have changed it. Parameters are the weights that can be learned, frozen ones"
        f" included.{agreement if len(peers) > 1 else ''}",
    ]


def _largest(metrics: Mapping) -> str:
    """Return the share of the largest class, which top-1 is to be compared with."""
    name, share = findings.largest_class(metrics["data"]) or ("", 0.0)
    return f"; the largest class, {escape(name)}, has {100 * share:.1f} % of them" if share else ""


def _trained_on(data: Mapping) -> str:
    """Return the sentence on the largest and the smallest class; none of an earlier version."""
    counts = data.get("class_counts", {}).get("train", [])
    if not sum(counts):
        return ""
    most, least = max(counts), min(counts)
    if most == least:
        return f" Each class has {many(most, 'training image')}."
    first, last = (escape(data["class_names"][counts.index(n)]) for n in (most, least))
    return f" Training images by class: at most {most:,} ({first}), at least {least:,} ({last})."


def _skipped(counts: Mapping[str, int]) -> str:
    told = [f"{escape(name)} skipped {many(n, 'step')}" for name, n in counts.items() if n]
    return f" {both(told)}, because loss or gradients were not finite." if told else ""


def sentence(metrics: Mapping) -> str:
    """Return the result in a sentence: the best network, or that none does more than guess.

    Args:
        metrics: What RUN/metrics.json holds.
    """
    peers, ensemble = metrics["peers"], metrics["ensemble"]
    best = max(peers, key=lambda name: (peers[name]["top1"], -peers[name]["parameters"]))
    together = f"; the ensemble of {len(peers)} networks reaches {100 * ensemble['top1']:.1f} %"
    together = together if len(peers) > 1 else ""
    if findings.guesses(peers[best]["top1"], metrics["data"]):
        return (
            f"No network is clearly better than {escape(guess(metrics['data']))}: the most"
            f" accurate, {escape(best)}, reaches {100 * peers[best]['top1']:.1f} % top-1 on"
            f" {escape(metrics['dataset'])}{together}. Train longer, or change the learning"
            " rates."
        )
    balanced = ""
    if findings.uneven(metrics["data"]) and "balanced_accuracy" in peers[best]:
        share = 100 * peers[best]["balanced_accuracy"]
        balanced = f" ({share:.1f} % if every class counts alike)"
    return (
        f"**{escape(best)}** reaches **{100 * peers[best]['top1']:.1f} %** top-1{balanced} on"
        f" {escape(metrics['dataset'])} with {peers[best]['parameters'] / 1e6:.2f} M parameters"
        f"{together}."
    )


def guess(data: Mapping) -> str:
    """Return what a network could do that knows nothing; `data` as of `findings.guesses`."""
    name, share = findings.largest_class(data) or ("", 0.0)
    if share > 1.5 / len(data["class_names"]):
        return f"always answering {name} ({100 * share:.1f} % of the test images)"
    return "guessing"


def title(metrics: Mapping) -> str:
    """Return which networks were trained on what, as plain text; `metrics` as of `sentence`."""
    names = list(metrics["peers"])
    return f"{both(names) if len(names) < 4 else f'{len(names)} peers'} on {metrics['dataset']}"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {round(seconds) % 60} s" if minutes else f"{seconds:.0f} s"
