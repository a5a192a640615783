"""Export a finished run: SavedModels for TF Serving, TFLite files for devices, each run back.

python -m xkd_keras.export --run_dir=RUN [--peer=NAME] [--variant=int8]
"""

import sys
from pathlib import Path

from absl import flags

from xkd_keras.devices import start_up
from xkd_keras.errors import FlagError
from xkd_keras.flags import command_line, parsing
from xkd_keras.runs import records
from xkd_keras.ship.variants import PRECISION, SAVED_MODEL, check_variants


def main() -> None:
    """Export what the flags name; print the table and the advice."""
    values = flags.FLAGS
    if not values.run_dir:
        raise FlagError("missing. Give the directory of a finished run.", argument="run_dir")
    if set(values.peer) == {"ensemble"} and values.variant and SAVED_MODEL not in values.variant:
        raise FlagError(
            "the ensemble has no TFLite or ONNX files; valid: --variant=savedmodel.",
            argument="peer",
        )
    check_variants(values.variant)
    run_dir = Path(parsing.path(values.run_dir, "run_dir"))
    records.finished(run_dir)
    command_line.tell(f"exporting networks of {values.run_dir}")
    start_up.load_tensorflow()
    from xkd_keras.report import deployment_page
    from xkd_keras.ship import artifacts, manifest  # after what may be wrong with the flags

    listed = artifacts.export(
        run_dir, values.peer, values.variant, values.version, values.precision
    )
    print(f"\n{deployment_page.table(listed)}\n{deployment_page.advice(listed)}")
    print(f"manifest  {manifest.path(run_dir)}")
    if (run_dir / "report.html").exists():
        print(f"report    {run_dir / 'report.html'}")
    if manifest.asked(listed["failed"], values.peer, values.variant):
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", "", "Directory of a finished run.")
    flags.DEFINE_multi_string(
        "peer", [], "Export only this peer, or the ensemble; may be repeated."
    )
    flags.DEFINE_multi_string(
        "variant",
        [],
        "Export only this variant: savedmodel, or float32, float16, dynamic, int8 (TFLite); or,"
        " made only on request, int16x8 (TFLite) or onnx (needs the extra `onnx`); may be"
        " repeated.",
    )
    flags.DEFINE_integer("version", 0, "Version of the SavedModels; 0: the next one.", 0)
    flags.DEFINE_float("precision", None, PRECISION, 0, 1)
    command_line.run(main)
