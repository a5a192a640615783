"""What Keras asks of any model, as a Cohort answers it: nothing of the method is here."""

import contextlib

import keras

from xkd_keras.distillation import averages, batches, members, nonfinite, optimizers, saving
from xkd_keras.errors import InputError

# Of `keras.Model.compile`: what a Cohort brings itself.
_OWN = {"auto_scale_loss", "loss_weights", "metrics", "weighted_metrics"}
_KEPT = ("run_eagerly", "steps_per_execution", "jit_compile")  # in a saved cohort


class KerasSide(keras.Model):
    """The part of `cohort.Cohort` that compiles, fits, evaluates, predicts, saves and loads."""

    _fit_weights = None  # of classes, as long as `fit` runs with them

    def compile(self, optimizer="sgd", loss=None, *more, on_nonfinite="stop", **kwargs):
        """Set how to train.

        Where a peer computes in float16, the loss is scaled up for its gradients not to vanish, and
        a peer whose gradients overflow sits that step out (Micikevicius et al., 2018).

        Args:
            optimizer: A Keras optimizer or its name, copied for each peer, or a dict of them by the
                peer's name (and `ensemble`, for a teacher that learns).
            loss: None; a Cohort has its own.
            *more: None, as Keras' arguments that follow: metrics are a Cohort's own, too.
            on_nonfinite: What a loss or gradient does that is not finite: `stop` raises, `skip`
                leaves that peer, and it only, as it was before the step, out of the others'
                teacher too, and counts the step in the metric NAME_skipped.
            **kwargs: As `keras.Model.compile`, but `jit_compile` is off unless asked for: on CPUs
                XLA makes these networks slower.

        To compile again begins the steps anew that lambda and `ema` are computed from.

        Raises:
            InputError: A loss or metrics are given (a Cohort has its own), an unknown
                on_nonfinite, or an optimizer asks for what a Cohort does otherwise.
        """
        own = {*(_OWN & set(kwargs)), *(["loss"] if more or loss is not None else [])}
        if own:
            raise InputError("is set by the Cohort; valid: leave it out.", argument=min(own))
        self.nonfinite = nonfinite.Nonfinite(self.peers, on_nonfinite)
        kwargs.setdefault("jit_compile", False)
        if not isinstance(optimizer, optimizers.CohortOptimizer):
            optimizer = optimizers.CohortOptimizer(optimizers.by_peer(optimizer, self.learners()))
        optimizers.check(optimizer.by_peer, self.nonfinite.may_skip)
        optimizer.build_peers(self.learners())
        self.nonfinite.attach(optimizer)
        super().compile(optimizer=optimizer, auto_scale_loss=False, **kwargs)

    def get_compile_config(self):
        if not self.compiled:
            return None
        optimizer = keras.saving.serialize_keras_object(self.optimizer)
        kept = {name: getattr(self, name) for name in _KEPT}
        skips = "skip" if self.nonfinite.skips else "stop"
        return {"optimizer": optimizer, "on_nonfinite": skips, **kept}

    def compile_from_config(self, config):
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"])
        kept = {name: config[name] for name in _KEPT if name in config}  # none: an earlier version
        self.compile(optimizer, on_nonfinite=config["on_nonfinite"], **kept)

    def fit(self, *args, class_weight=None, **kwargs):
        """As `keras.Model.fit`; a non-finite loss raises FloatingPointError: peer, step, lambda.

        `class_weight` counts in the loss, as `class_weights` of the Cohort does, and not in top-1
        and the other metrics. Labels that are no class numbers raise InputError.
        """
        with self._weighing(class_weight), nonfinite.explained(), batches.explained():
            history = super().fit(*args, **kwargs)
        if self.jit_compile and not self.nonfinite.skips:  # XLA cannot say it in the step
            nonfinite.check_history(history.history, self.peers)
        return history

    @contextlib.contextmanager
    def _weighing(self, given):
        """Train with these weights of classes, a dict by their number, if there are any."""
        if given is None:
            yield
            return
        if self.class_weights:
            raise InputError(
                "the Cohort has class_weights; valid: one of the two.", argument="class_weight"
            )
        self._fit_weights = members.of_classes("class_weight", given, self.classes)
        self.train_function = None  # it was traced without them
        try:
            yield
        finally:
            self._fit_weights = self.train_function = None

    def evaluate(self, *args, **kwargs):
        """As `keras.Model.evaluate`; labels that are no class numbers raise InputError."""
        with batches.explained(), self.averaged():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args, **kwargs):
        """As `keras.Model.predict`: the logits of every peer by name, and of the `ensemble`."""
        with self.averaged():
            return super().predict(*args, **kwargs)

    def averaged(self):
        """Return a context in which the peers have their averages, to be saved; nothing without."""
        return averages.lent(self.averages, self.peers)

    def export(self, *args, **kwargs):
        """Refuse: each peer is a Keras model that exports itself."""
        raise InputError(
            "a Cohort cannot be exported as one model; valid:"
            f" cohort.peers['{next(iter(self.peers))}'].export(PATH), for each peer."
        )

    def get_config(self):
        return saving.config(self)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**saving.arguments(config, custom_objects))

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Do nothing, as the peers are built: Keras would add up what the replicas got unevenly."""
