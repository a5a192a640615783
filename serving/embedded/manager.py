"""All models of a server: what is configured, what is watched, and look-up."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
from absl import logging

from serving.embedded.failure import Failure, invalid
from serving.embedded.protos import ConfigError
from serving.embedded.versions import Config, Model, not_found


def configs_of(message) -> list[Config]:
    """Return what a ModelServerConfig asks for; raises ConfigError."""
    if message.WhichOneof("config") != "model_config_list":
        raise ConfigError("Only ModelConfigList is currently supported")
    configs = []
    for each in message.model_config_list.config:
        if not each.name:
            raise ConfigError("a model in the config list has no name")
        if each.name in {config.name for config in configs}:
            raise ConfigError(f"Illegal to list model {each.name} multiple times in config list")
        if not Path(each.base_path).is_absolute():
            raise ConfigError(
                f"Expected model {each.name} to have an absolute path or URI; got"
                f" base_path()={each.base_path}"
            )
        configs.append(_config_of(each))
    return configs


def _config_of(each) -> Config:
    policy = each.model_version_policy
    latest, specific = 1, ()
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        latest = 0
    elif kind == "specific":
        latest, specific = 0, tuple(policy.specific.versions)
        if not specific:
            raise ConfigError(f"model {each.name}: the policy `specific` names no versions")
    elif kind == "latest":
        latest = policy.latest.num_versions or 1
    labels = dict(each.version_labels)
    return Config(each.name, Path(each.base_path), latest, specific, labels)


class Manager:
    """The models of a server; threads may share it.

    Args:
        load: Makes a servable of a version's directory and the model's name; raises Failure.
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
        self._stop = threading.Event()
        self._closing, self._refused = False, 0.0
        self._watchers: list[threading.Thread] = []

    def names(self) -> list[str]:
        """Return the names of the models, in the order of the configuration."""
        return list(self._models)

    def set_configs(self, configs: Sequence[Config]) -> None:
        """Serve these models and no others. Returns when what is new was loaded, or failed.

        Raises:
            Failure: A label names a version that is not there; nothing was changed but for new
                models.
        """
        with self._changing:
            models = dict(self._models)
            for config in configs:
                if (
                    config.name in models
                    and models[config.name].config.base_path == config.base_path
                ):
                    continue
                models[config.name] = self._model(config)
            new = [model for name, model in models.items() if self._models.get(name) is not model]
            self._look(new)
            for config in configs:
                self._check_labels(config, models[config.name])
            kept = {config.name: models[config.name] for config in configs}
            for config in configs:
                kept[config.name].config = config
            self._look(kept.values())
            old = [model for name, model in self._models.items() if kept.get(name) is not model]
            self._models = kept
            for model in old:
                model.unload()

    def _model(self, config: Config) -> Model:
        return Model(config, self._load, self._retries, self._interval)

    def _check_labels(self, config: Config, model: Model) -> None:
        loaded = {version.number for version in model.versions() if version.available}
        for label, number in config.labels.items():
            if number not in loaded and not self._early_labels:
                raise Failure(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Request to assign label {label} to version {number} of model {config.name},"
                    " which is not currently available for inference",
                )

    def refresh(self) -> None:
        """Look for new versions and for those that are gone."""
        with self._changing:
            self._look(self._models.values())

    def _look(self, models: Iterable[Model]) -> None:
        """Refresh models, several at a time where that is asked for."""
        if self._threads > 1:
            with ThreadPoolExecutor(self._threads, thread_name_prefix="load") as pool:
                list(pool.map(Model.refresh, models))  # raises what they raise
        else:
            for model in models:
                model.refresh()

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something again and again, in a thread, until `stop`."""

        def loop():
            while not self._stop.wait(seconds):
                try:
                    call()
                except Exception:
                    logging.exception("%s", call.__name__)

        thread = threading.Thread(target=loop, name=call.__name__, daemon=True)
        self._watchers.append(thread)
        thread.start()

    def stop(self) -> None:
        """Stop what `every` does."""
        self._stop.set()
        for thread in self._watchers:
            thread.join()

    def close(self, seconds: float) -> None:
        """Answer UNAVAILABLE from now on; return when what runs has finished, or time is up.

        gRPC cancels requests that arrive while its server stops, so clients are first told to go
        elsewhere, for two seconds at most.
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
            Failure: A model whose versions all failed.
        """
        while not stop.is_set():
            models = self._models.values()
            failed = [model for model in models if not model.ready and model.versions()]
            for model in failed:
                found = [version.failure for version in model.versions() if version.failure]
                if len(found) == len(model.versions()):
                    raise found[0]
            if all(model.ready for model in models):
                return
            stop.wait(poll)
            self.refresh()

    def model(self, name: str) -> Model:
        """Return a model; raises Failure."""
        if name not in self._models:
            raise not_found(f"Latest({name})")
        return self._models[name]

    @contextmanager
    def lease(self, spec):
        """Hold the version that a ModelSpec names while a request runs on it; raises Failure."""
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        if self._closing:
            self._refused = time.monotonic()
            raise Failure(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        number = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
        if spec.name not in self._models:
            asked = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
            raise not_found(asked)
        model = self._models[spec.name]
        if spec.WhichOneof("version_choice") == "version_label":
            number = model.config.labels.get(spec.version_label)
            if number is None:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        with model.lease(number) as version:
            yield version
