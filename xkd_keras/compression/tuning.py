"""Fine-tuning of a twin, taught: by the labels and the frozen ensemble of its run."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tf_keras

from xkd_keras import data as datasets
from xkd_keras.data import balance
from xkd_keras.distillation import losses, shares
from xkd_keras.runs import directory as rundir
from xkd_keras.runs import evaluation


class Tuner:
    """Fine-tunes tf_keras models on a run's training images, always in the same way.

    L = CE(y, z) + lambda T^2 KL(softmax(z_T / T) || softmax(z / T)), as in training, where z_T is
    the run's ensemble: all its peers, frozen, weighted as they were.

    Args:
        run: From `rundir.load_run`.
        epochs: Passes over the training images, for each pass of a recipe.
        learning_rate: Of SGD with momentum 0.9, falling to 0 as a cosine.
        distill_weight: lambda; 0 learns from the labels alone.
        temperature: T.
        batch_size: Images per step.
        seed: Of order and augmentation.
    """

    def __init__(
        self,
        run: rundir.Run,
        epochs: int,
        learning_rate: float,
        distill_weight: float,
        temperature: float,
        batch_size: int,
        seed: int,
    ):
        self.run, self.epochs, self.learning_rate = run, epochs, learning_rate
        self.distill_weight, self.temperature = distill_weight, temperature
        self.batch_size, self.seed = batch_size, seed
        labels, classes = datasets.labels(run.data.train), len(run.data.class_names)
        self.class_weights = balance.class_weights(run.config.class_weights, labels, classes)
        self.steps = epochs * datasets.steps_per_epoch(run.data, batch_size)

    def __call__(self, model: tf_keras.Model, callbacks: list, pace: float = 1.0) -> None:
        """Fine-tune `model` in place, at `pace` times the learning rate."""
        rate = tf_keras.optimizers.schedules.CosineDecay(pace * self.learning_rate, self.steps)
        model.compile(tf_keras.optimizers.SGD(rate, momentum=0.9), self._loss)
        steps = self.steps // self.epochs
        model.fit(
            self._batches(),
            epochs=self.epochs,
            steps_per_epoch=steps,
            callbacks=[*callbacks, _Progress(self)],
            verbose=0,
        )

    def images(self, batches: int) -> Iterator[tf.Tensor]:
        """Give so many batches of training images."""
        endless = datasets.train_batches(
            self.run.data, batch_size=self.batch_size, epochs=batches, seed=self.seed
        )
        return (images for images, _ in endless.take(batches))

    def _batches(self) -> tf.data.Dataset:
        """Return (images, [label, teacher logits]): Keras hands a loss no third thing."""
        own = shares.normalized(self.run.weights, self.run.models)

        def taught(images, labels):
            stacked = shares.stacked([self.run.models[name] for name in own], images)
            logits = shares.ensemble(stacked, list(own.values()))
            return images, tf.concat([tf.cast(labels, tf.float32)[:, None], logits], axis=-1)

        batches = datasets.train_batches(
            self.run.data, batch_size=self.batch_size, epochs=self.epochs, seed=self.seed
        )
        return batches.map(taught) if self.distill_weight else batches

    def _loss(self, given, logits):
        given = tf.cast(given, tf.float32)
        labels = tf.cast(given[:, 0] if self.distill_weight else tf.reshape(given, [-1]), tf.int64)
        loss = losses.cross_entropy(labels, logits[None])[0]
        if self.distill_weight:
            teacher = given[None, :, 1:]
            loss += (
                self.distill_weight
                * losses.distillation(teacher, logits[None], self.temperature)[0]
            )
        return losses.by_class([loss], labels, self.class_weights)[0]


class _Progress(tf_keras.callbacks.Callback):
    """One line per epoch: the loss, and top-1 on validation images."""

    def __init__(self, tuner: Tuner):
        super().__init__()
        self.tuner = tuner

    def on_train_begin(self, logs=None):
        self.call = tf.function(self.model, reduce_retracing=True)  # traced once, not every epoch

    def on_epoch_end(self, epoch, logs=None):
        data = self.tuner.run.data
        answers = evaluation.answers(
            lambda images: self.call(images, training=False).numpy(),
            data,
            "validation",
            self.tuner.batch_size,
        )
        top1 = np.mean(answers.argmax(-1) == datasets.labels(data.validation))
        print(
            f"epoch {epoch + 1}/{self.tuner.epochs}  loss {logs['loss']:.4f}"
            f"  validation top-1 {100 * top1:.2f} %",
            flush=True,
        )
