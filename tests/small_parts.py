"""Parts of a study whose runs are invented: `python -m tests.small_parts DIRECTORY INDEX/COUNT`.

Every run writes its name and its part's index into DIRECTORY/log. Runs whose names are given, too,
never end.
"""

import multiprocessing
import sys
import threading
import time
from pathlib import Path

from xkd_keras.flags import config as configs
from xkd_keras.study import shards, workers
from xkd_keras.study.plan import Plan, Task


def tasks(directory, count=8):
    """Return tasks; every fourth needs the one before it."""
    results = [directory / "runs" / f"method{i}" / "seed-0.json" for i in range(count)]
    return [
        Task(f"method{i}", configs.Config(), result, after=results[i - 1] if i % 4 == 3 else None)
        for i, result in enumerate(results)
    ]


def done(task):
    """Whether a task has a result."""
    return task.result.exists()


def part(directory, index, count=2):
    """Return one of several parts of the tasks."""
    plan = Plan(configs.Config(run_dir=str(directory)), (), (), shard=(index, count))
    return shards.part(plan, tasks(directory), done)


class Worker(workers.Worker):
    """Does runs in a thread.

    Args:
        run: What to do with a task; returns what goes wrong.
    """

    def __init__(self, run):
        self.pipe, self._theirs = multiprocessing.Pipe()
        self.task, self.left, self._run = None, workers.RUNS, run

    def give(self, task):
        self.task = task
        threading.Thread(target=lambda: self._theirs.send(self._run(task)), daemon=True).start()

    def stop(self):
        self.pipe.close()


def main(directory, shard, *stuck):
    directory, index = Path(directory), shard.partition("/")[0]

    def run(task):
        with open(directory / "log", "a") as log:
            log.write(f"{task.name} {index}\n")
        if task.name in stuck:
            threading.Event().wait()
        time.sleep(0.05)  # so that processes which start one after the other meet
        task.result.parent.mkdir(parents=True)
        task.result.write_text("{}")
        return ""

    shards.POLL = 0.05
    workers.Worker = lambda threads: Worker(run)
    with part(directory, *map(int, shard.split("/"))) as mine:
        todo = [task for task in tasks(directory) if not done(task)]
        for task, error in workers.run_all(todo, 1, mine):
            print(task.name, error, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
