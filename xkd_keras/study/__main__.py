"""Compare methods of co-training over seeds: one command, one directory, one honest report.

python -m xkd_keras.study --flagfile=configs/study/digits.flags
"""

import sys

from absl import flags

from xkd_keras import signals, train
from xkd_keras.console import many
from xkd_keras.flags import command_line
from xkd_keras.study import options


def main() -> None:
    """Run the study that the flags describe; print the table and where the report is."""
    plan = options.plan(flags.FLAGS)
    signals.restartable()
    command_line.tell(f"comparing {many(len(plan.arms), 'method')}; results in {plan.directory}")
    train.check_own(plan.base)
    from xkd_keras.study import orchestration, report  # slow: after what may be wrong with flags

    try:
        study = orchestration.run(plan)
    except KeyboardInterrupt:
        print(f"interrupted; the same command resumes from {plan.directory}", file=sys.stderr)
        sys.exit(130)
    print(f"\ntest images, {study['data']['examples']['test']} of {study['dataset']}:")
    print(report.table(study))
    for line in report.warnings(study, study["summary"]):
        print(f"warning: {line}")
    failed = [run for run in study["runs"] if run["status"] == "failed"]
    if failed:
        print(f"{many(len(failed), 'run')} failed; the same command tries again")
    print(f"report  {plan.directory / 'report.html'}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    options.define(flags.FLAGS)
    command_line.run(main)
