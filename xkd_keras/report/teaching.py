"""What each network learned from the others: in sentences and in numbers."""

import shlex
from collections.abc import Mapping, Sequence

from xkd_keras.report.page import both, code, escape, grid

_ALIKE = {"keep": "last", "patience": "0", "teacher": "auto"}  # for all methods of a study


def section(metrics: Mapping, rows: Sequence[Mapping] = ()) -> list[str]:
    """Return what each peer's teacher was worth; nothing where nobody taught.

    Args:
        metrics: What RUN/metrics.json holds.
        rows: One mapping per epoch, what RUN/logs/history.csv holds; may be empty.
    """
    worth = metrics.get("teaching")  # a run of an earlier version has none
    if not worth:
        return []
    count = metrics["data"]["examples"]["validation"]
    weighted = any(values.get("heard", 1.0) != 1.0 for values in worth.values())
    told = any(values.get("told") for values in worth.values())
    gated = any(values["gate"] < 0.9995 for values in worth.values())
    return [
        "## How good the teachers were",
        " ".join(_sentence(name, values, rows) for name, values in worth.items()),
        *_features(metrics, worth),
        *_exits(metrics),
        _table(worth, weighted, gated),
        f"Measured on {count:,} validation images, with the final networks. Cross-entropy and ECE"
        " (calibration error) are the teacher's; agreement is the share of images on which the"
        " network and its teacher name the same class."
        + (" Gate is the share of images on which the teacher may teach." if gated else "")
        + (
            " A teacher that is computed from the labels has no accuracy of its own (–)."
            if told
            else ""
        )
        + (
            " Heard is the share of λ that counts at the end of training: how well the teacher"
            " fits the training images, times the network's own `distill`."
            if weighted
            else ""
        ),
        *_compare(metrics),
    ]


def _compare(metrics: Mapping) -> list[str]:
    """Return how to see whether teaching helped, which one run cannot say."""
    config, words = metrics.get("config") or {}, shlex.split(metrics.get("command", ""))
    # In a study, `kd` has another teacher, and several machines share the runs instead of each.
    other = config.get("teacher_run") or config.get("strategy") == "multiworker"
    if other or not words or not words[-1].endswith("-again"):  # of an earlier version
        return []
    words[-1] = words[-1].removesuffix("-again") + "-study"
    method, teacher = metrics["method"], config.get("teacher", "auto")
    # What a study refuses: weights are kept and teachers chosen for each method alone.
    words += [f"--{n}={v}" for n, v in _ALIKE.items() if str(config.get(n, v)) != v]
    method += "" if teacher == "auto" else f",teacher={teacher}"
    words += ["--compare=solo", f"--compare={method}", "--seeds=5"]
    line = shlex.join(words).replace("xkd_keras.train", "xkd_keras.study", 1)
    return [
        "Only a comparison with training alone shows whether teaching helped. This command"
        " compares both, with five seeds each, and takes about ten times as long as this run:",
        code(line),
    ]


def _table(worth: Mapping, weighted: bool, gated: bool) -> str:
    headings = ["", "its own top-1", "its teacher's", "cross-entropy", "ECE"]
    shares = ["agreement", *["gate"] * gated, *["heard"] * weighted]
    rows = []
    for name, values in worth.items():
        own, *of_teacher = (f"{100 * values[k]:.1f} %" for k in ("own_top1", "top1", "ece"))
        of_teacher.insert(1, f"{values['cross_entropy']:.2f}")
        if values.get("told"):
            of_teacher = ["–"] * 3
        parts = [f"{100 * values[kind]:.1f} %" for kind in shares]
        rows.append([escape(name), own, *of_teacher, *parts])
    return grid(headings + shares, rows)


def _sentence(name: str, values: Mapping, rows: Sequence[Mapping]) -> str:
    """Return from whom a network learned, on what, and how far it heard them."""
    teacher, several = _teacher(name, values)
    text = f"{escape(name)} learned from {teacher}"
    gates = [row[f"{name}_gate"] for row in rows if f"{name}_gate" in row]
    gate = sum(gates) / len(gates) if gates else values["gate"]
    if gate < 0.995:
        text += f" on {_percent(gate)} of the images"
        text += ", on average over the epochs" if gates else ""
    elif values.get("told"):
        text += ", which is computed from the labels"
    else:
        text += f", {'which together are' if several else 'which is'} {_compared(values)}"
    end = values.get("heard", 1.0)
    epochs = [row[f"{name}_heard"] for row in rows if f"{name}_heard" in row]
    if epochs:
        mean = sum(epochs) / len(epochs)
        text += f", at {_percent(mean)} of the full weight on average"
        text += f" and {_percent(end)} at the end"
    elif end != 1.0:
        text += f", at {_percent(end)} of the full weight"
    return text + "."


def _compared(values: Mapping) -> str:
    """Return how much more accurate the teacher is."""
    gain = 100 * (values["top1"] - values["own_top1"])
    if abs(gain) < 0.05:
        return "as accurate"
    return f"{abs(gain):.1f} points {'more' if gain > 0 else 'less'} accurate"


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"


def _teacher(name: str, values: Mapping) -> tuple[str, bool]:
    """Return who taught a network, and whether that is a plural."""
    names = values.get("teachers", ())  # a run of an earlier version does not say it
    if name in names:
        return "the ensemble", False
    if len(names) == 1:
        return escape(names[0]), False
    return ("the others", True) if names else ("its teacher", False)


def _exits(metrics: Mapping) -> list[str]:
    """Return what heads on inner stages did, where there were any."""
    count = (metrics.get("config") or {}).get("exits", 0)
    text = (
        f"During training, each network had additional heads on inner layers (--exits={count}),"
        " which learned from the labels and from the other networks’ heads. The saved networks"
        " have none."
    )
    return [text] if count else []


def _features(metrics: Mapping, worth: Mapping) -> list[str]:
    """Return who learned from features too."""
    names = [escape(name) for name, values in worth.items() if values.get("features")]
    if not names:
        return []
    weight = metrics["config"]["distill_similarity"]
    return [
        f"{both(names)} also learned from {'each other’s' if len(names) > 1 else 'the others’'}"
        f" features which images are alike (--distill_similarity={weight:g}). In this term the"
        " teachers count in full, however well they fit the training images."
    ]
