"""What a study's report ends with: methods, how options were chosen, every run, repeating it."""

from collections.abc import Mapping

from xkd_keras.console import many
from xkd_keras.report.page import both, circumstances, code, escape, grid
from xkd_keras.study import statistics
from xkd_keras.study.report import words

_SETTING = ("method", "setting", "error %", "top-1 %", "sd", "cross-entropy")
_LONG = 100  # seeds; of more, the table of runs would be longer than the report


def parts(study: Mapping) -> list[str]:
    """Return the parts as Markdown."""
    return [*_methods(study), *_search(study), *_runs(study), *_particulars(study)]


def _methods(study: Mapping) -> list[str]:
    rows = [
        [escape(name), escape(method.get("about", "–")), words.options(method)]
        for name, method in study["methods"].items()
    ]
    return ["## Methods", grid(["method", "what it is", "own options"], rows, words=3)]


def _search(study: Mapping) -> list[str]:
    """Return how hyper-parameters were chosen."""
    sweep, head = study["sweep"], "## How hyper-parameters were chosen"
    if not sweep:
        return [
            head,
            "There was no search: the options are those given above, the same for every seed.",
        ]
    sizes = {name: len(settings) for name, settings in sweep["methods"].items()}
    equal = (
        f"every searched method tried the same number of settings, {max(sizes.values(), default=0)}"
        if len(set(sizes.values())) < 2
        else "methods tried different numbers of settings:"
        f" {both(f'{escape(k)} {v}' for k, v in sizes.items())}"
    )
    shared = sorted(set(sweep["seeds"]) & set(study["seeds"]))
    seeds = (
        f"ALSO used in the study: {both(map(str, shared))}" if shared else "not used in the study"
    )
    never = "" if sweep["split"] == "test" else "The test images were never used to choose options."
    rows = [
        [escape(name), words.options(setting), *_setting(setting)]
        for name, settings in sweep["methods"].items()
        for setting in settings
    ]
    return [
        head,
        f"By {escape(sweep['criterion'])}, on {escape(sweep['split'])} images, with"
        f" {many(len(sweep['seeds']), 'seed')} {seeds}; {equal}. Options that make no difference"
        " to a method are not counted, and a method's variants use the setting chosen for it."
        f" {never} Bold: chosen.",
        grid([*_SETTING, "seeds"], rows, words=2),
    ]


def _setting(setting: Mapping) -> list[str]:
    """Return the numbers of one setting: error, top-1 with its deviation, cross-entropy, seeds."""
    cells = []
    for key, factor, digits in (
        ("error", 100, 2),
        ("top1", 100, 2),
        ("sd", 100, 2),
        ("cross_entropy", 1, 3),
    ):
        value = setting.get(key)
        cells.append("–" if value is None else f"{factor * value:.{digits}f}")
    if setting["chosen"]:
        cells[0] = f"**{cells[0]}**"
    return [*cells, str(setting["n"])]


def _runs(study: Mapping) -> list[str]:
    """Return failed runs with their errors, and the top-1 of every run."""
    parts = []
    done = statistics.finished(study)
    failed = [
        [escape(run["method"]), str(run["seed"]), escape(run.get("error") or "–")]
        for run in study["runs"]
        if run["status"] == "failed" and (run["method"], run["seed"]) not in done
    ]
    if failed:
        parts += ["## Failed runs", grid(["method", "seed", "error"], failed, words=3)]
    if not done or len(study["seeds"]) > _LONG:
        return parts
    parts.append("## Every run\n\nTop-1 % on the test images.")
    for peer in study["peers"]:
        top1 = statistics.scores(study, peer, "top1")
        rows = [
            [str(seed), *(f"{100 * v[seed]:.2f}" if seed in v else "–" for v in top1.values())]
            for seed in study["seeds"]
        ]
        parts.append(grid([f"{escape(peer)}: seed", *map(escape, top1)], rows))
    return parts


def _particulars(study: Mapping) -> list[str]:
    """Return how to repeat the study, data, settings and versions."""
    data = study["data"]
    counts = ", ".join(f"{split} {count:,}" for split, count in data["examples"].items())
    skipped = data.get("skipped") or []
    left = f" Left out: {many(len(skipped), 'unreadable file')}." if skipped else ""
    peers = [
        [escape(peer), escape(facts["builder"]), f"{facts['parameters']:,}"]
        for peer, facts in study["peers"].items()
    ]
    parts = [
        "## Repeat the study",
        code(study["command"]),
        f"This report is of {escape(study['created'][:16].replace('T', ' '))} UTC.",
        "## Data and networks",
        f"{escape(data['name'])}: images by split {counts};"
        f" {len(data['class_names']):,} classes, images of"
        f" {' × '.join(map(str, data['image_shape']))}; fingerprint"
        f" {escape(data['fingerprint'])}.{left}",
        grid(["network", "builder", "parameters"], peers, words=2),
    ]
    return [*parts, *circumstances(study["config"], study["versions"])]
