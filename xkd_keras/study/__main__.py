"""Compare methods of co-training over seeds: one command, one directory, one honest report.

python -m xkd_keras.study --flagfile=configs/study/digits.flags
"""

import dataclasses
import sys

from absl import flags

from xkd_keras import cli, train
from xkd_keras import config as configs
from xkd_keras.errors import FlagError, unknown
from xkd_keras.study import plan as plans


def main() -> None:
    """Run the study that the flags describe; print the table and where the report is."""
    plan = _plan()
    from xkd_keras.study import conduct, report  # slow: after what may be wrong with the flags

    try:
        study = conduct.run(plan)
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on from {plan.directory}", file=sys.stderr)
        sys.exit(130)
    print(f"\ntest images, {study['data']['examples']['test']} of {study['dataset']}:")
    print(report.table(study))
    failed = [run for run in study["runs"] if run["status"] == "failed"]
    if failed:
        print(f"{len(failed)} runs failed; the same command tries them again")
    print(f"report  {plan.directory / 'report.html'}")
    if failed:
        sys.exit(1)


def _plan() -> plans.Plan:
    """Return the plan of the parsed flags; raises FlagError for what no study could take."""
    values = flags.FLAGS
    base = configs.from_flags(values)
    train.check(dataclasses.replace(base, method="solo", teacher="auto", teacher_run="", teacher_peer=""))
    if values.preset not in ("", *plans.PRESETS):
        raise FlagError(unknown("--preset", values.preset, plans.PRESETS))
    preset = plans.PRESETS[values.preset] if values.preset else ()
    grid = plans.parse_grid(values.sweep)
    searching = values.sweep_seeds if grid else 0
    plan = plans.Plan(
        base,
        plans.parse_arms([*preset, *values.compare]),
        tuple(range(base.seed, base.seed + values.seeds)),
        grid,
        tuple(range(plans.SWEEP_SEED + base.seed, plans.SWEEP_SEED + base.seed + searching)),
        values.jobs,
    )
    plans.check(plan)
    return plan


def _define() -> None:
    flags.DEFINE_multi_string(
        "compare",
        [],
        "A method, repeated: METHOD[,name=NAME][,option=value...]. METHOD is one of"
        f" {', '.join(configs.METHODS)}. Options: {', '.join(configs.TEACHING)}; a second variant"
        " of a method needs a name.",
    )
    flags.DEFINE_string(
        "preset", "", f"Methods to compare: {', '.join(plans.PRESETS)}; --compare adds to them."
    )
    flags.DEFINE_integer("seeds", 5, "Runs of every method, from --seed on.", lower_bound=1)
    flags.DEFINE_integer("jobs", 1, "Runs side by side, each in its own process.", lower_bound=1)
    flags.DEFINE_multi_string(
        "sweep",
        [],
        "OPTION=VALUE:VALUE..., repeated: every method tries all combinations on validation images"
        " first, and takes its best.",
    )
    flags.DEFINE_integer("sweep_seeds", 3, "Seeds of the search, others than --seeds.", lower_bound=1)


if __name__ == "__main__":
    configs.define(flags.FLAGS)
    _define()
    cli.run(main)
