"""What happens beside the steps: a line of progress, the history and the checkpoints."""

import csv
import io
import math
import sys
import time
from pathlib import Path

import keras

from xkd_keras import files
from xkd_keras.devices.cluster import cluster
from xkd_keras.distillation.optimizers import number
from xkd_keras.errors import PreemptedError
from xkd_keras.flags.command_line import check_interrupted, clock, terminated
from xkd_keras.runs import checkpoint


class History(keras.callbacks.Callback):
    """Writes history.csv and a checkpoint after each epoch, and a checkpoint where SIGTERM ends it.

    Args:
        run_dir: The run's directory.
        done: How far the run is; its history is appended to in place.
        steps: Steps an epoch.
    """

    ASK_EVERY = 10  # steps: whether another worker has had SIGTERM costs a message to all

    def __init__(self, run_dir: Path, done: checkpoint.Progress, steps: int):
        super().__init__()
        self.run_dir, self.rows, self.steps = run_dir, done.history, steps
        self.rest = done  # of the epoch that was cut, if one was

    def on_epoch_begin(self, epoch, logs=None):
        self.first, before = self.rest.batch, self.rest.seconds
        self.began = time.perf_counter() - before
        if self.first:
            checkpoint.put_metrics(self.model, self.rest.metrics)
        self.rest = checkpoint.Progress()

    def on_train_batch_end(self, batch, logs=None):
        check_interrupted()  # where Ctrl-C was lost
        done = self.first + batch + 1
        if done < self.steps and self._terminated(done):
            self._save(done, time.perf_counter() - self.began)
            raise PreemptedError(
                f"saved after {done} of {self.steps} steps of epoch {len(self.rows) + 1}"
            )

    def on_test_batch_end(self, batch, logs=None):
        check_interrupted()

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        row = {
            "epoch": epoch + 1,
            "step": int(number(optimizer.iterations)),
            "seconds": round(time.perf_counter() - self.began, 3),
            **{name: float(value) for name, value in logs.items()},
        }
        for name, each in optimizer.by_peer.items():
            row[f"{name}_learning_rate"] = number(each.learning_rate)
        self._stop_if_hopeless(row)
        self.rows.append(row)
        # The checkpoint holds the history: killed between the two, the csv is written again.
        self._save()
        if cluster.is_chief(self.model.distribute_strategy):
            write_history(self.run_dir, self.rows)
        if self._terminated(0):
            raise PreemptedError(f"saved after epoch {epoch + 1}")

    def _stop_if_hopeless(self, row: dict) -> None:
        """Stop where no step could: XLA leaves their check out, and `skip` would go on for ever."""
        for name in self.model.peers:
            losses = row[f"{name}_cross_entropy"], row.get(f"val_{name}_cross_entropy", 0.0)
            every = row.get(f"{name}_skipped", 0) >= self.steps
            if every or not all(map(math.isfinite, losses)):
                where = "in every step of" if every else "in"
                raise FloatingPointError(
                    f"non-finite loss: peer {name}, {where} epoch {row['epoch']}"
                )

    def _save(self, batch: int = 0, seconds: float = 0.0):
        checkpoint.save(self.run_dir / "checkpoints", self.model, self.rows, batch, seconds)

    def _terminated(self, step: int) -> bool:
        """Whether any worker has had SIGTERM: all of them stop after the same step."""
        strategy = self.model.distribute_strategy
        if not cluster.several(strategy):
            return terminated()
        return step % self.ASK_EVERY == 0 and bool(cluster.total(strategy, int(terminated())))


def write_history(run_dir: Path, rows: list[dict]) -> None:
    """Write RUN/logs/history.csv: one row an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write(run_dir / "logs" / "history.csv", text.getvalue())


def read_history(run_dir: Path) -> list[dict]:
    """Return the rows of RUN/logs/history.csv."""
    with open(run_dir / "logs" / "history.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    whole = ("epoch", "step")
    return [{k: int(v) if k in whole else float(v) for k, v in row.items()} for row in rows]


class Progress(keras.callbacks.Callback):
    """One line an epoch: accuracies, lambda, step rate, time left; on a terminal, also within it.

    Args:
        peers: Names, in the order to show.
        epochs: Epochs of the whole run.
        steps: Steps an epoch.
        first: Steps of the first epoch that an earlier process did.
        stream: Where to write.
    """

    SECONDS = 0.5  # between two updates of the line on a terminal
    SECONDS_LOG = 60  # the same where lines cannot be overwritten

    def __init__(self, peers: list[str], epochs: int, steps: int, first: int = 0, stream=None):
        super().__init__()
        self.peers, self.epochs, self.steps, self.first = peers, epochs, steps, first
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.mark = None  # (time, step) after the first step, which takes long to trace

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.shown = epoch, time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        batch += self.first
        now, done = time.monotonic(), self.epoch * self.steps + batch + 1
        if self.mark is None:
            self.mark = (now, done)
        if now - self.shown > (self.SECONDS if self.terminal else self.SECONDS_LOG):
            self.shown = now
            text = f"step {batch + 1}/{self.steps}  {self._pace(done)}"
            self._write(f"epoch {self.epoch + 1:>3}/{self.epochs}  {text}", passing=True)

    def on_epoch_end(self, epoch, logs=None):
        names = [*self.peers, "ensemble"] if len(self.peers) > 1 else self.peers
        shown = [f"{name} {self._top1(logs, name)}" for name in names]
        text = f"lambda {logs['distill_weight']:.2f}  {'  '.join(shown)}"
        pace = self._pace((epoch + 1) * self.steps)
        skipped = [(name, int(logs.get(f"{name}_skipped", 0))) for name in self.peers]
        text += "".join(f"  {name} skipped {count}" for name, count in skipped if count)
        self._write(f"epoch {epoch + 1:>3}/{self.epochs}  {text}  {pace}")
        self.first = 0

    def _top1(self, logs, name):
        train, held_out = logs[f"{name}_top1"], logs.get(f"val_{name}_top1")
        return f"{100 * (train if held_out is None else held_out):5.1f}%"

    def _pace(self, done: int) -> str:
        began, first = self.mark
        seconds = time.monotonic() - began
        if done == first:
            return ""
        rate = (done - first) / seconds
        left = (self.epochs * self.steps - done) / rate
        return f"{rate:.1f} steps/s  {clock(left)} left"

    def _write(self, line: str, passing: bool = False):
        if self.terminal:
            # Back to the first column, and clear what the longer line before may have left.
            line = f"\r{line}\x1b[K"
        end = "" if passing and self.terminal else "\n"
        print(line, end=end, file=self.stream, flush=True)
