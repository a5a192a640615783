"""Measure again what RESULTS.md beside this file says of speed, and write it there.

python tests/benchmarks/refresh.py [--only=train_step]

Each table that a script writes stands between `<!-- SCRIPT --flags -->` and `<!-- /SCRIPT -->`. The
script is run with those flags, and its output replaces what stood there, under a line with the
command, the machine and the date. All of it takes about an hour on a quiet machine.
"""

import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from absl import app, flags

flags.DEFINE_string("only", "", "Only the scripts whose name begins with this.")
HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
BLOCK = re.compile(r"<!-- (?P<name>\w+)\.py(?P<flags>[^>]*) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)
MACHINE = re.compile(r"(.*, load average .*)\n+")  # the line of `measured.circumstances`


def measured(block: re.Match) -> str:
    """Return the block with what its script prints now."""
    name, options = block["name"], block["flags"].split()
    if not name.startswith(flags.FLAGS.only):
        return block[0]
    command = [sys.executable, HERE / f"{name}.py", *options]
    print(f"{name} ...", flush=True)
    done = subprocess.run(command, cwd=HERE.parent.parent, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: exit code {done.returncode}; {RESULTS.name} is as it was")
    begin = f"<!-- {name}.py{block['flags']} -->"
    shown = " ".join(["python", f"tests/benchmarks/{name}.py", *options])
    return f"{begin}\n{_dated(shown, done.stdout.strip())}\n\n<!-- /{name} -->"


def _dated(command: str, output: str) -> str:
    """Return a script's output under the line that says how, where and when it was measured."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    if printed := MACHINE.match(output):
        machine, output = printed[1], output[printed.end() :]
    today = datetime.date.today().isoformat()
    return f"Command: `{command}`. Machine: {machine}. Date: {today}.\n\n{output}"


def main(_):
    """Run the scripts, and write the results when all are done."""
    RESULTS.write_text(BLOCK.sub(measured, RESULTS.read_text()))


if __name__ == "__main__":
    app.run(main)
