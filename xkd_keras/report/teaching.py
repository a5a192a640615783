"""What each network learned from the others: in a sentence and in numbers."""

from collections.abc import Mapping

from xkd_keras.report.page import escape, grid


def section(metrics: Mapping) -> list[str]:
    """Return what each peer's teacher was worth; nothing where nobody taught."""
    worth = metrics.get("teaching")  # a run of an earlier version has none
    if not worth:
        return []
    count = metrics["data"]["examples"]["validation"]
    headings = ["", "its own top-1", "its teacher's", "cross-entropy", "ECE", "agreement", "gate"]
    adapted = any(values.get("heard", 1.0) < 1.0 for values in worth.values())
    headings += ["heard"] if adapted else []
    rows = []
    for name, values in worth.items():
        shares = [values[key] for key in ("own_top1", "top1")]
        kinds = ("ece", "agreement", "gate", *(["heard"] if adapted else []))
        rest = [values[key] for key in kinds]
        rows.append(
            [escape(name)]
            + [f"{100 * share:.1f} %" for share in shares]
            + [f"{values['cross_entropy']:.2f}"]
            + [f"{100 * share:.1f} %" for share in rest]
        )
    return [
        "## What the teachers were worth",
        " ".join(_sentence(escape(name), values) for name, values in worth.items()),
        grid(headings, rows),
        f"Measured on {count:,} validation images after the last epoch. Cross-entropy and ECE"
        " (calibration error) are the teacher's; agreement is the share of images on which the"
        " network and its teacher name the same class; the gate is the share on which the teacher"
        " may teach."
        + (
            " Heard is how far the network hears its teacher, by what that has learned of the"
            " training images." * adapted
        ),
    ]


def _sentence(name: str, values: Mapping) -> str:
    gain = 100 * (values["top1"] - values["own_top1"])
    if values["gate"] < 0.995:
        return f"{name} learned from its teacher on {100 * values['gate']:.0f} % of the images."
    compared = (
        f"{gain:.1f} points more often right than it"
        if gain >= 0.05
        else f"{-gain:.1f} points less often right than it"
        if gain <= -0.05
        else "as often right as it"
    )
    return f"The teacher of {name} is {compared}."
