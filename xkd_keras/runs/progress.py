"""What a person sees while a run trains."""

import time

import keras

from xkd_keras.console import Line, clock


class Progress(keras.callbacks.Callback):
    """One line per epoch: accuracies, step rate, time left; on a terminal, also within it.

    Lambda is shown as it teaches: the mean over the peers, with what multiplies it for each.

    Args:
        peers: Names, in the order to show.
        epochs: Epochs of the whole run.
        steps: Steps per epoch.
        first: Steps of the first epoch that an earlier process did.
        stream: Where to write.
    """

    def __init__(self, peers: list[str], epochs: int, steps: int, first: int = 0, stream=None):
        super().__init__()
        self.peers, self.epochs, self.steps, self.first = peers, epochs, steps, first
        self.line = Line(stream)
        self.mark = None  # (time, step) after the first step, which takes long to trace

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.line.begin()

    def on_train_batch_end(self, batch, logs=None):
        batch += self.first
        done = self.epoch * self.steps + batch + 1
        if self.mark is None:
            self.mark = (time.monotonic(), done)
        if self.line.due():
            text = f"step {batch + 1}/{self.steps}  {self._pace(done)}"
            self.line.write(f"epoch {self.epoch + 1:>3}/{self.epochs}  {text}", passing=True)

    def on_epoch_end(self, epoch, logs=None):
        names = [*self.peers, "ensemble"] if len(self.peers) > 1 else self.peers
        shown = [f"{name} {self._top1(logs, name)}" for name in names]
        heard = self.model.heard().values()
        taught = logs["distill_weight"] * sum(heard) / len(heard)
        text = f"teaching {taught:.2f}  {'  '.join(shown)}"
        pace = self._pace((epoch + 1) * self.steps)
        skipped = [(name, int(logs.get(f"{name}_skipped", 0))) for name in self.peers]
        text += "".join(f"  {name} skipped {count}" for name, count in skipped if count)
        self.line.write(f"epoch {epoch + 1:>3}/{self.epochs}  {text}  {pace}")
        self.first = 0

    def _top1(self, logs, name):
        train, held_out = logs[f"{name}_top1"], logs.get(f"val_{name}_top1")
        return f"{100 * (train if held_out is None else held_out):5.1f}%"

    def _pace(self, done: int) -> str:
        if self.mark is None or done == self.mark[1]:
            return ""
        began, first = self.mark
        seconds = time.monotonic() - began
        rate = (done - first) / seconds
        left = (self.epochs * self.steps - done) / rate
        return f"{rate:.1f} steps/s  {clock(left)} left"
