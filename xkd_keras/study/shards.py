"""A study in several processes, on machines that share its directory: which of them does a run.

Files in STUDY/claims/ say it. What no two may do at once is to make a file that must not be there
yet, which holds on network file systems, too:

    runs-solo-seed-0.1         the first claim to a run; its text names the part that has made it
    runs-solo-seed-0.1.ended   that run has ended; its text says what went wrong, if anything did
    part-0-HOST-PID-1a2b3c4d   a part that lives: it touches this file again and again

A claim is never taken away. One whose part is dead is outdone by the next, runs-solo-seed-0.2. All
times are those of the file system, so that the machines' clocks need not agree.
"""

import contextlib
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path

from xkd_keras import files
from xkd_keras.errors import FlagError, InputError
from xkd_keras.flags import parsing
from xkd_keras.study.plan import Plan, Task

BEAT = 20.0  # seconds between two touches
DEAD = 300.0  # seconds without one, after which a part is taken for dead
POLL = 5.0  # seconds between two looks at what the others have done


def parse(text: str, environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Return INDEX and COUNT of --shard, or None where it is empty.

    Args:
        text: `INDEX/COUNT`; `auto` in an array of Slurm; `auto/COUNT` there or in an Indexed Job of
            Kubernetes, which does not say how many pods there are.
        environment: Has what Slurm and Kubernetes say.

    Raises:
        FlagError: It is none of these, or there is no such part.
    """
    if not text:
        return None
    index, _, count = text.partition("/")
    if index == "auto":
        index, told = _own(environment)
        count = count or told
    number = re.compile("[0-9]{1,9}")
    if not (number.fullmatch(index) and number.fullmatch(count) and int(index) < int(count)):
        found = f", which is here {index or '?'}/{count or '?'}" if text.startswith("auto") else ""
        raise FlagError(
            f"received '{text}'{found}; valid: INDEX/COUNT with INDEX from 0 to COUNT - 1, auto in"
            " a Slurm array without gaps, or auto/COUNT in a Kubernetes Indexed Job.",
            argument="shard",
        )
    return int(index), int(count)


def _own(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return INDEX and COUNT as the scheduler says them, empty where it does not."""
    task = environment.get("SLURM_ARRAY_TASK_ID", "")
    if not task:
        return environment.get("JOB_COMPLETION_INDEX", ""), ""
    first = int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
    step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1))
    return str((int(task) - first) // step), environment.get("SLURM_ARRAY_TASK_COUNT", "")


@contextlib.contextmanager
def turn(plan: Plan) -> Iterator[None]:
    """Let one part at a time write what is the whole study's."""
    with files.turn(plan.directory) if plan.shard else contextlib.nullcontext():
        yield


def reported(directory: Path) -> bool:
    """Whether study.json, which is written last, is newer than all that it is made from."""
    study = directory / "study.json"
    patterns = ("study.flags", "sweep.json", "runs/*/seed-*.json", "claims/*.ended")
    times = [path.stat().st_mtime_ns for each in patterns for path in directory.glob(each)]
    return study.exists() and all(time < study.stat().st_mtime_ns for time in times)


def part(plan: Plan, tasks: Sequence[Task], done: Callable[[Task], bool]) -> "Alone | Part":
    """Return this process' part of the tasks: a context within which it may take them.

    Args:
        plan: Says which part.
        tasks: All of them, in the same order in every part.
        done: Whether a task's result is there.
    """
    return Part(plan.shard, plan.directory, tasks, done) if plan.shard else Alone()


class Alone:
    """The part of a process that shares its study with no other: everything."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def order(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks in the order in which they should start."""
        return list(tasks)

    def look(self) -> None:
        """See what the others have done."""

    def outcome(self, task: Task) -> str | None:
        """Return how a task of another part has ended: "", or what went wrong; None: it has not."""

    def take(self, task: Task) -> bool:
        """Claim a task; False where it is another part's."""
        return True

    def end(self, task: Task, error: InputError | str) -> None:
        """Say how a task that was taken has ended."""

    def wait(self, pipes: Sequence, left: int) -> list:
        """Wait until a pipe has something to say, or there is a reason to look.

        Args:
            pipes: Connections to the processes that are busy.
            left: Tasks that have not started here, nor ended elsewhere.
        """
        return connection.wait(pipes) if pipes else []


class Part(Alone):
    """One of several parts: its own share of the tasks first, then what the others leave.

    It waits for what the others do, and takes it over where they die. A task that has failed is
    tried again once the part that it failed in is gone.
    """

    def __init__(
        self,
        shard: tuple[int, int],
        directory: Path,
        tasks: Sequence[Task],
        done: Callable[[Task], bool],
    ):
        self._index, self._count = shard
        self._directory, self._folder, self._done = directory, directory / "claims", done
        self._numbers = {task.result: number for number, task in enumerate(tasks)}
        unique = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._sign = self._folder / f"part-{self._index}-{unique}"
        self._left, self._waits = threading.Event(), False
        self._texts: dict[str, str] = {}  # by the file's name
        self._taken: dict[Path, str] = {}  # claims of its own, by the task's result

    def __enter__(self):
        self._folder.mkdir(exist_ok=True)
        threading.Thread(target=self._live, daemon=True).start()
        self.look()
        self._before = {name for name in self._names if name.endswith(".ended")}
        return self

    def __exit__(self, *_):
        self._left.set()
        self._sign.unlink(missing_ok=True)  # whoever looks next may take what has not ended

    def _live(self) -> None:
        while not self._left.wait(BEAT):
            with contextlib.suppress(OSError):  # the network is away: perhaps not for long
                self._sign.touch()
        self._sign.unlink(missing_ok=True)  # touched just when the part was leaving

    def order(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the own share of the tasks first, then that of the next part, and so on."""
        own = self._index
        return sorted(tasks, key=lambda task: (self._numbers[task.result] - own) % self._count)

    def look(self) -> None:
        self._sign.touch()
        self._now = self._sign.stat().st_mtime
        self._names = set(os.listdir(self._folder))

    def outcome(self, task: Task) -> str | None:
        claim = self._claim(task)
        if not claim:
            return None
        ended = f"{claim}.ended"
        if ended not in self._names:
            return "" if not self._lives(claim) and self._done(task) else None
        error = self._text(ended)
        # What ended before this part began and is asked for now is not done, or not any more.
        again = ended in self._before and not (error and self._lives(claim))
        return None if again else error

    def take(self, task: Task) -> bool:
        claim = self._claim(task)
        if claim and f"{claim}.ended" not in self._names and self._lives(claim):
            return False
        name = self._name(task, self._generation(task) + 1)
        try:
            with open(self._folder / name, "x") as file:
                file.write(self._sign.name)
        except FileExistsError:
            return False
        self._names.add(name)
        self._taken[task.result] = name
        return True

    def end(self, task: Task, error: InputError | str) -> None:
        name = f"{self._taken.pop(task.result)}.ended"
        files.write(self._folder / name, parsing.as_typed(error))
        self._names.add(name)

    def wait(self, pipes: Sequence, left: int) -> list:
        if left and not pipes and not self._waits:
            self._waits = True
            print(f"waiting for runs that other parts are doing; {left} left", flush=True)
        return connection.wait(pipes, POLL) if left or pipes else []

    def _name(self, task: Task, generation: int) -> str:
        parts = task.result.relative_to(self._directory).with_suffix("").parts
        return f"{'-'.join(parts)}.{generation}"

    def _generation(self, task: Task) -> int:
        """Return the number of the last claim to a task, 0 where there is none."""
        number = 0
        while self._name(task, number + 1) in self._names:
            number += 1
        return number

    def _claim(self, task: Task) -> str:
        """Return the name of the last claim to a task, empty where there is none."""
        number = self._generation(task)
        return self._name(task, number) if number else ""

    def _lives(self, claim: str) -> bool:
        """Whether the part that has made a claim lives."""
        sign = self._text(claim) or claim  # the name is not written yet: the claim is young
        try:
            return self._now - (self._folder / sign).stat().st_mtime < DEAD
        except FileNotFoundError:
            return False

    def _text(self, name: str) -> str:
        """Return what is in a file, which does not change once it is there."""
        text = self._texts.get(name) or (self._folder / name).read_text()
        return self._texts.setdefault(name, text) if text else ""
