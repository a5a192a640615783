"""Measure again what BUILD_NOTES.md says of speed, and write it there.

python tests/benchmarks/refresh.py [--only=train_step]

Each table there stands between `<!-- SCRIPT --flags -->` and `<!-- /SCRIPT -->`: the script is run
with those flags, and what it prints takes the place of what stood there. All of it takes about an
hour on a quiet machine.
"""

import re
import subprocess
import sys
from pathlib import Path

from absl import app, flags

flags.DEFINE_string("only", "", "Only the scripts whose name begins so.")
HERE = Path(__file__).parent
NOTES = HERE.parent.parent / "BUILD_NOTES.md"
BLOCK = re.compile(r"<!-- (?P<name>\w+)\.py(?P<flags>[^>]*) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)


def measured(block: re.Match) -> str:
    """Return the block with what its script prints now."""
    name, options = block["name"], block["flags"].split()
    if not name.startswith(flags.FLAGS.only):
        return block[0]
    command = [sys.executable, HERE / f"{name}.py", *options]
    print(f"{name} ...", flush=True)
    done = subprocess.run(command, cwd=HERE.parent.parent, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: exit code {done.returncode}; {NOTES.name} is as it was")
    begin = f"<!-- {name}.py{block['flags']} -->"
    return f"{begin}\n{done.stdout.strip()}\n\n<!-- /{name} -->"


def main(_):
    """Run the scripts, and write the notes when all are done."""
    NOTES.write_text(BLOCK.sub(measured, NOTES.read_text()))


if __name__ == "__main__":
    app.run(main)
