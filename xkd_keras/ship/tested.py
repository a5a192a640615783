"""A run with what its networks answer on the images that its files are compared on."""

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from scipy.special import softmax

from xkd_keras import data as datasets
from xkd_keras.errors import InputError
from xkd_keras.runs import calibration, evaluation
from xkd_keras.ship import quality

REPRESENTATIVE = 200  # training images that stand for all when activations are quantised
OWN = 0.01  # of top-1: what another machine's rounding may change; of few images, one of them


@contextlib.contextmanager
def full_float32():
    """Let a GPU compute float32 in full: TensorFlow would round what files are compared with."""
    was = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(was)


class Tested:
    """A run with what its peers answer, calibrated, on the images that files are compared on.

    Args:
        run: From `rundir.load_run`.
        precision: How often what a file is sure enough of is to be right; 0: no threshold.

    Attributes:
        answered: By split, what the networks answered as they were trained.
        temperatures: By network, what its logits are divided by in everything that is shipped.
        predictions: By split, the answers with these logits.

    Raises:
        InputError: A network is not the one that the run's metrics describe.
    """

    def __init__(self, run, precision: float = 0.0):
        self.run, self.precision = run, precision
        self.predictions = {
            split: evaluation.predict(
                run.models, run.weights, run.data, split, run.config.eval_batch_size
            )
            for split in ("validation", "test")
        }
        self.answered = dict(self.predictions)  # as trained
        self.temperatures = calibration.fitted(self.predictions["validation"])
        for split, each in self.predictions.items():
            scaled = {name: z / self.temperatures[name] for name, z in each.logits.items()}
            self.predictions[split] = dataclasses.replace(each, logits=scaled)
        for name in run.models:
            self._check_own(name)
        self.examples = self.predictions["test"].fetch(range(min(16, len(run.data.test))))

    def top1(self, name: str) -> float:
        """Return the top-1 accuracy of a trained peer on the test images, 0..1."""
        test = self.predictions["test"]
        return float(np.mean(test.logits[name].argmax(-1) == test.labels))

    def _check_own(self, name: str) -> None:
        measured, recorded = self.top1(name), self.run.metrics["peers"][name]["top1"]
        if abs(measured - recorded) > max(OWN, 1.5 / len(self.run.data.test)):
            raise InputError(
                f"{self.run.directory / 'peers' / name}.keras: has a top-1 of"
                f" {100 * measured:.2f} on the test images, but metrics.json says"
                f" {100 * recorded:.2f}: it is not the network of this run; restore the file."
            )

    def representative(self) -> np.ndarray:
        """Return uint8 [n, H, W, 3]: training images, a fixed choice."""
        total = len(self.run.data.train)
        chosen = np.random.RandomState(0).permutation(total)[:REPRESENTATIVE]
        return datasets.images(self.run.data.train, np.sort(chosen), self.run.data)

    def quality(self, name: str, call: Callable[[np.ndarray], np.ndarray]) -> dict:
        """Return how well a file answers: `call` takes images [n, H, W, 3], gives probabilities."""
        scores, given = {}, {}
        for split, each in self.predictions.items():
            reference = softmax(each.logits[name], axis=-1)
            given[split] = self._answers(call, split)
            result = quality.quality(each.labels, reference, given[split])
            scores |= result if split == "test" else {"validation_top1": result["top1"]}
        if self.precision:
            scores["threshold"] = self._threshold(given)
        return scores

    def temperature_of(self, call: Callable[[np.ndarray], np.ndarray]) -> float:
        """Return what the logits of a model should be divided by that learned after its network.

        `call` takes images [n, H, W, 3] and gives logits: probabilities of int8 would say 0 of all
        classes below 1/512.
        """
        logits = self._answers(call, "validation")
        return calibration.temperature(self.predictions["validation"].labels, logits)

    def threshold_of(self, name: str) -> dict | None:
        """Return the threshold of a network's own answers; None where there is to be none."""
        parts = self.predictions.items()
        given = {split: softmax(each.logits[name], axis=-1) for split, each in parts}
        return self._threshold(given) if self.precision else None

    def _answers(self, call, split: str) -> np.ndarray:
        return evaluation.answers(call, self.run.data, split, self.run.config.eval_batch_size)

    def _threshold(self, given: dict[str, np.ndarray]) -> dict | None:
        """Return the least score that is sure enough on validation, and what it does on test."""
        sure, right = {}, {}
        for split, each in self.predictions.items():
            sure[split] = given[split].max(-1)
            right[split] = given[split].argmax(-1) == each.labels
        score = calibration.threshold(right["validation"], sure["validation"], self.precision)
        if score is None:
            return None
        taken = sure["test"] >= score
        return {
            "precision": self.precision,
            "score": score,
            "rests_on": int((sure["validation"] >= score).sum()),
            "taken": int(taken.sum()),
            "right": int(right["test"][taken].sum()),
        }
