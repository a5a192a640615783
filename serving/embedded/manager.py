"""All models of a server: labels, watching for changes, and look-up."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
from absl import logging

from serving.embedded.errors import StatusError, invalid, not_found
from serving.embedded.versions import Model, ModelConfig

_BEGIN = 0.1  # seconds in which a thread that is free begins, however near the end is


def _log(change: futures.Future) -> None:
    """Log why a change was refused that nobody waits for any longer."""
    if error := change.exception():
        logging.error("ReloadConfig: nothing has changed: %s", error)


class Manager:
    """The models of a server; threads may share it.

    Args:
        load: Makes a servable from a version's directory and the model's name; raises StatusError.
        retries: How often a version that failed is tried again.
        interval: Seconds between tries.
        early_labels: Whether a label may name a version that is not loaded yet.
        threads: How many models are loaded at a time; 0: one, by the thread that asks for it.
    """

    def __init__(
        self,
        load: Callable[[Path, str], object],
        retries: int = 5,
        interval: float = 60.0,
        early_labels: bool = False,
        threads: int = 0,
    ):
        self._load, self._retries, self._interval = load, retries, interval
        self._early_labels, self._threads = early_labels, threads
        self._models: dict[str, Model] = {}
        self._changing = threading.Lock()
        # Loads that somebody waits for, who may go before they end; one at a time.
        self._loading = futures.ThreadPoolExecutor(1, thread_name_prefix="reload")
        self._stop = threading.Event()
        self._closing, self._refused = False, 0.0
        self._watchers: list[threading.Thread] = []

    def names(self) -> list[str]:
        """Return the names of the models, in the order of the configuration."""
        return list(self._models)

    def set_configs(self, configs: Sequence[ModelConfig]) -> list[Model]:
        """Serve these models and no others. Returns the new ones when they were loaded, or failed.

        Raises:
            StatusError: A label names a version that does not exist, or a model that answers has a
                new directory without a version that loads. Nothing has changed.
        """
        with self._changing:
            models = {config.name: self._kept(config) or self._model(config) for config in configs}
            new = [model for name, model in models.items() if self._models.get(name) is not model]
            # Before anything is loaded: a file that is refused is read again and again.
            for config in configs:
                model = models[config.name]
                there = (config.wanted() or ()) if model in new else model.loaded()
                self._check_labels(config, model, there)
            self._look(new)
            try:
                for model in new:
                    self._check_labels(model.config, model, model.loaded())
                    self._check_replaces(model)
            except StatusError:
                for model in new:
                    model.unload()
                raise
            for config in configs:
                models[config.name].config = config
            self._look(models.values())
            old = [model for name, model in self._models.items() if models.get(name) is not model]
            self._models = models
            for model in old:
                model.unload()
            return new

    def reload(
        self, configs: Sequence[ModelConfig], end: float, poll: float = 0.1
    ) -> dict[str, str]:
        """Serve these models and no others; return when the new ones answer, failed or are gone.

        Args:
            configs: As for `set_configs`.
            end: `time.monotonic()` at which time is up.
            poll: Seconds between two looks at models that are not there yet.

        Returns:
            For each new model that does not answer, the reason.

        Raises:
            StatusError: As `set_configs`, or time is up before it is done.
        """
        change = self._within(end, self.set_configs, configs)
        if change.cancelled():
            raise StatusError(
                grpc.StatusCode.UNAVAILABLE,
                "nothing has changed, because an earlier change is still being loaded",
            )
        if not change.done():
            change.add_done_callback(_log)
            raise StatusError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "the models are still being loaded; they are served when all have been",
            )
        return self._until_ready(change.result(), end, poll)

    def _within(self, end: float, call: Callable, *args) -> futures.Future:
        """Return a call of its own thread when it is done, or time is up.

        If it has not begun by then, it is cancelled.
        """
        called = self._loading.submit(call, *args)
        futures.wait([called], max(_BEGIN, end - time.monotonic()))
        called.cancel()
        return called

    def _until_ready(self, models: Sequence[Model], end: float, poll: float) -> dict[str, str]:
        while True:
            left = [model for model in models if not model.ready]
            waiting = [one for one in left if one.hoped and one in self._models.values()]
            now = time.monotonic()
            if not waiting or now >= end or self._stop.wait(min(poll, end - now)):
                return {model.config.name: model.reason for model in left}
            self._within(end, self.refresh, waiting)

    def _kept(self, config: ModelConfig) -> Model | None:
        """Return the model that is served already from the directory of a configuration."""
        model = self._models.get(config.name)
        return model if model is not None and model.config.base_path == config.base_path else None

    def _model(self, config: ModelConfig) -> Model:
        return Model(config, self._load, self._retries, self._interval)

    def _check_replaces(self, model: Model) -> None:
        """Raise StatusError where a model that answers would give way to one that does not."""
        before = self._models.get(model.config.name)
        if before is not None and before.ready and not model.ready:
            raise StatusError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"model {model.config.name} is still served from {before.config.base_path},"
                f" because nothing could be loaded from its new base_path: {model.reason}",
            )

    def _check_labels(self, config: ModelConfig, model: Model, there: Collection[int]) -> None:
        """Raise StatusError where a label names a version that is not `there`."""
        for label, number in config.labels.items():
            # As upstream: a label that is used already never moves to a version that is not there.
            # A new model's configuration is this one, so that its labels are free.
            early = self._early_labels and model.config.labels.get(label, number) == number
            if number not in there and not early:
                raise StatusError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Request to assign label to version {number} of model {config.name},"
                    " which is not currently available for inference",
                )

    def refresh(self, only: Collection[Model] | None = None) -> None:
        """Look for versions that were added or removed, of some models or (None) of all."""
        with self._changing:
            models = self._models.values()
            self._look([model for model in models if only is None or model in only])

    def _look(self, models: Iterable[Model]) -> None:
        """Refresh models, several at a time if there are several threads."""
        if self._threads > 1:
            with futures.ThreadPoolExecutor(self._threads, thread_name_prefix="load") as pool:
                list(pool.map(Model.refresh, models))
        else:
            for model in models:
                model.refresh()

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something periodically, in a thread, until `stop`."""

        def loop():
            told = ""
            while not self._stop.wait(seconds):
                try:
                    call()
                    told = ""
                except Exception as error:  # the next time may be better
                    line = f"{call.__name__}: {type(error).__name__}: {error}".split("\n")[0]
                    if line != told:
                        logging.error("%s", line)
                    told = line

        thread = threading.Thread(target=loop, name=call.__name__, daemon=True)
        self._watchers.append(thread)
        thread.start()

    def stop(self, seconds: float | None = None) -> None:
        """End the threads of `every`; a load that runs gets this long (None: all it takes)."""
        self._stop.set()
        for thread in self._watchers:
            thread.join(seconds)

    def close(self, seconds: float) -> None:
        """Answer UNAVAILABLE from now on; return when running requests finished, or time is up.

        gRPC cancels requests that arrive while its server stops, so clients first get up to two
        seconds to go elsewhere.
        """
        self._closing, self._refused = True, time.monotonic()
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(model.busy for model in self._models.values()):
            time.sleep(0.01)
        end = min(end, time.monotonic() + 2)
        while time.monotonic() < end and time.monotonic() - self._refused < 0.2:
            time.sleep(0.01)

    def wait(self, stop: threading.Event, poll: float = 0.2) -> None:
        """Return when every model has a version that answers, or `stop` is set.

        Raises:
            StatusError: A model whose versions all failed.
        """
        while not stop.is_set():
            models = self._models.values()
            failed = [model for model in models if not model.ready and model.versions()]
            for model in failed:
                errors = [version.error for version in model.versions() if version.error]
                if len(errors) == len(model.versions()):
                    raise errors[0]
            if all(model.ready for model in models):
                return
            stop.wait(poll)
            self.refresh()

    def model(self, name: str) -> Model | None:
        """Return a model, if it is served."""
        return self._models.get(name)

    @contextmanager
    def lease(self, spec):
        """Hold the version of a ModelSpec while a request runs on it; raises StatusError."""
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        if self._closing:
            self._refused = time.monotonic()
            raise StatusError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        with ExitStack() as stack:
            yield self._leased(spec, stack)

    def _leased(self, spec, stack: ExitStack):
        """Return a version that is held until the stack is closed; raises StatusError."""
        while True:
            model, number = found = self._named(spec)
            try:
                return stack.enter_context(model.lease(number))
            except StatusError:  # or the configuration has changed since then
                if self._named(spec) == found:
                    raise

    def _named(self, spec) -> tuple[Model, int | None]:
        """Return the model of a ModelSpec and the number that it asks for; raises StatusError."""
        number = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
        model = self.model(spec.name)
        if model is None:
            asked = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
            raise not_found(asked)
        if spec.WhichOneof("version_choice") == "version_label":
            number = model.config.labels.get(spec.version_label)
            if number is None:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        return model, number
