"""What happens beside the steps: the history and the checkpoints."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from xkd_keras import signals
from xkd_keras.devices import cluster, collectives
from xkd_keras.distillation import nonfinite
from xkd_keras.distillation.optimizers import last_rate, number
from xkd_keras.errors import InputError, PreemptedError, first_line
from xkd_keras.runs import checkpoint, history, keeping


class Recorder(keras.callbacks.Callback):
    """Writes history.csv and a checkpoint after each epoch, and a checkpoint where SIGTERM ends it.

    Args:
        run_dir: The run's directory.
        done: How far the run is; its history is appended to in place.
        steps: Steps per epoch.
        keep: "last", or "best": keep the weights of each network's best epoch as well.
        patience: End after as many epochs in which no network became better; 0: never.
    """

    ASK_EVERY = 10  # steps: whether another worker has had SIGTERM costs a message to all

    def __init__(
        self,
        run_dir: Path,
        done: checkpoint.Position,
        steps: int,
        keep: str = "last",
        patience: int = 0,
    ):
        super().__init__()
        self.keep, self.patience = keep, patience
        self.run_dir, self.rows, self.steps = run_dir, done.history, steps
        self.rest = done  # of the epoch that was cut, if one was
        self.begun = False  # whether this process has done a step, which there is to save

    def on_epoch_begin(self, epoch, logs=None):
        self.first, before = self.rest.batch, self.rest.seconds
        self.began = time.perf_counter() - before
        if self.first:
            checkpoint.put_metrics(self.model, self.rest.metrics)
        self.rest = checkpoint.Position()

    def on_train_batch_end(self, batch, logs=None):
        signals.check_interrupted()  # where Ctrl-C was lost
        self.begun = True
        done = self.first + batch + 1
        if done < self.steps and self._terminated(done):
            self._save(done, time.perf_counter() - self.began)
            raise PreemptedError(
                f"saved after {done} of {self.steps} steps of epoch {len(self.rows) + 1}"
            )

    def on_test_begin(self, logs=None):
        if self._alone():  # validation takes the metrics for its own
            self.trained = checkpoint.metrics(self.model), time.perf_counter() - self.began

    def on_test_batch_end(self, batch, logs=None):
        signals.check_interrupted()
        if self._alone() and signals.terminated():
            self.model.stop_evaluating = True  # a scheduler may not wait for the rest

    def stop_if_cut(self, epoch, logs=None):
        """Save before the validation that SIGTERM cut, and stop; for a callback before others."""
        if getattr(self.model, "stop_evaluating", False):
            metrics, seconds = self.trained
            checkpoint.put_metrics(self.model, metrics)
            self._save(self.steps, seconds)
            raise PreemptedError(
                f"saved after the last step of epoch {epoch + 1}, before its validation"
            )

    def on_epoch_end(self, epoch, logs=None):
        optimizer, strategy = self.model.optimizer, self.model.distribute_strategy
        row = {
            "epoch": epoch + 1,
            "step": int(number(optimizer.iterations)),
            "seconds": round(time.perf_counter() - self.began, 3),
            **{name: float(value) for name, value in logs.items()},
        }
        for name, each in optimizer.by_peer.items():
            row[f"{name}_learning_rate"] = last_rate(each)
        if self.model.mastery and len(self.model.peers) > 1:
            row |= {f"{name}_heard": part for name, part in self.model.heard().items()}
        self._check_epoch(row)
        self.rows.append(row)
        chief, directory = cluster.is_chief(strategy), self.run_dir / "checkpoints"
        keeps = chief and self.keep == "best"
        if keeps:
            keeping.save(directory, self.model, self.rows)
        # The checkpoint holds the history: killed between the two, the csv is written again.
        self._save()
        if chief:
            history.write(self.run_dir, self.rows)
        if keeps:
            keeping.tidy(directory, self.model.peers, self.rows)
        if ended(self.model, self.rows, self.patience):
            self.model.stop_training = True
        if self._terminated(0):
            raise PreemptedError(f"saved after epoch {epoch + 1}")

    def _check_epoch(self, row: dict) -> None:
        """Stop where no step could: XLA leaves their check out, and `skip` would never end."""
        for name in self.model.peers:
            means = row[f"{name}_cross_entropy"], row.get(f"val_{name}_cross_entropy", 0.0)
            every_step = row.get(f"{name}_skipped", 0) >= self.steps
            every_step &= not self.model.nonfinite.searching()
            nonfinite.check_epoch(name, row["epoch"], means, every_step)

    def _alone(self) -> bool:
        """Whether no other machine has to agree on where to stop."""
        return not cluster.several(self.model.distribute_strategy)

    def _save(self, batch: int = 0, seconds: float = 0.0):
        checkpoint.save(self.run_dir / "checkpoints", self.model, self.rows, batch, seconds)

    def _terminated(self, step: int) -> bool:
        """Whether any worker has had SIGTERM: all of them stop after the same step."""
        strategy = self.model.distribute_strategy
        if not cluster.several(strategy):
            return signals.terminated()
        return step % self.ASK_EVERY == 0 and bool(
            collectives.total(strategy, int(signals.terminated()))
        )


class Events(keras.callbacks.TensorBoard):
    """Writes what TensorBoard shows. A disk that takes no more is told in a line.

    Args:
        directory: Where the events are.
    """

    def __init__(self, directory: Path):
        super().__init__(directory, write_graph=False)

    def on_train_begin(self, logs=None):
        with self._writing():
            super().on_train_begin(logs)

    def on_test_end(self, logs=None):
        with self._writing():
            super().on_test_end(logs)

    def on_epoch_end(self, epoch, logs=None):
        with self._writing():
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        with self._writing():
            super().on_train_end(logs)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:  # TensorFlow writes the files
            # "{{function_node ...}} PATH; No space left on device [Op:FlushSummaryWriter]"
            reason = re.sub(r"{{.*?}} ?| \[Op:.*", "", first_line(error))
            raise InputError(
                f"cannot write to '{self.log_dir}' ({reason}); valid: a writable directory on a"
                " disk with free space. Then the same command resumes.",
                argument="run_dir",
            ) from None


def validate(cohort, watching: list, epoch: int, batches) -> None:
    """End an epoch that was cut after its last step: what `fit` would do before the next one.

    Args:
        cohort: Compiled and restored.
        watching: The callbacks of the run.
        epoch: Its number, from 0.
        batches: Of validation.
    """
    calls = keras.callbacks.CallbackList(watching, model=cohort)
    calls.on_train_begin()
    calls.on_epoch_begin(epoch)  # puts back the metrics of its training
    logs = {metric.name: float(metric.result()) for metric in cohort.metrics}
    values = cohort.evaluate(batches, verbose=0, return_dict=True, callbacks=calls)
    logs |= {f"val_{name}": value for name, value in values.items()}
    calls.on_epoch_end(epoch, logs)
    calls.on_train_end(logs)


def ended(cohort, rows: list[dict], patience: int) -> bool:
    """Whether training ends for want of progress; every worker asks at the same point.

    (A worker that is not the chief has no history of what was before it resumed.)
    """
    strategy = cohort.distribute_strategy
    own = cluster.is_chief(strategy) and keeping.exhausted(rows, cohort.peers, patience)
    return bool(patience and collectives.from_chief(strategy, np.array(int(own))))
