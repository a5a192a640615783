"""Which versions of a model are loaded: policies, retries, and switching between versions."""

import difflib
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from absl import logging
from tensorflow_serving.apis import get_model_status_pb2

from serving.embedded.errors import StatusError, not_found

State = get_model_status_pb2.ModelVersionStatus.State
MAX_VERSION = 2**63 - 1


@dataclass(frozen=True)
class ModelConfig:
    """What to serve under one name.

    Args:
        name: Of the model.
        base_path: The directory of its versions.
        latest: How many of the newest versions; 0: not by this policy.
        specific: These versions; none and `latest` 0: all of them.
        labels: Version by label.
    """

    name: str
    base_path: Path
    latest: int = 1
    specific: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)

    def wanted(self) -> list[int] | None:
        """Return the versions that exist and are asked for, newest first; None: no directory."""
        try:
            names = [path.name for path in self.base_path.iterdir()]
        except OSError:
            return None  # `missing` says why
        # int() accepts signs, blanks and the digits of other scripts; upstream's parser does not.
        numbers = {int(name) for name in names if name.isascii() and name.isdigit()}
        newest_first = sorted((n for n in numbers if n <= MAX_VERSION), reverse=True)
        if self.latest:
            return newest_first[: self.latest]
        return [n for n in newest_first if not self.specific or n in self.specific]

    def missing(self) -> str:
        """Return why there is no version to serve, for the log."""
        try:
            return self._missing()
        except OSError as error:
            return f"{self.base_path} cannot be read: {error.strerror}"

    def _missing(self) -> str:
        base = self.base_path
        if not base.is_dir():
            return f"there is no directory {base}{self._beside()}"
        next(base.iterdir(), None)  # raises if it cannot be read; `glob` would not
        if (base / "saved_model.pb").exists():
            return f"{base} is a version itself; valid: the directory that holds it"
        held = "contains none of the requested versions (directories named by a number)"
        return f"{base} {held}{self._inside()}"

    def _beside(self) -> str:
        """Return the question whether a directory of a like name was meant, or nothing."""
        names = [path.name for path in _bases(self.base_path.parent, "*/")]
        near = difflib.get_close_matches(self.base_path.name, names, 1)
        return f"; did you mean {self.base_path.parent / near[0]}?" if near else ""

    def _inside(self) -> str:
        """Return the question whether a directory in this one was meant, or nothing."""
        for pattern in ("*/", "savedmodel/*/", "export/savedmodel/*/"):  # of a run
            if found := _bases(self.base_path, pattern):
                named = [path for path in found if path.name == self.name]
                return f"; did you mean {(named or found)[0]}?"
        return ""

    def path(self, version: int) -> Path:
        """Return the directory of a version; its name may begin with zeros."""
        with suppress(OSError):  # it vanished: the load will tell
            for path in self.base_path.iterdir():
                if path.name.isascii() and path.name.isdigit() and int(path.name) == version:
                    return path
        return self.base_path / str(version)


def _bases(within: Path, pattern: str) -> list[Path]:
    """Return the directories below one that hold versions, by name."""
    found = within.glob(f"{pattern}[0-9]*/saved_model.pb")
    return sorted({path.parent.parent for path in found})


@dataclass
class Version:
    """One version and its state."""

    number: int
    state: int = State.START
    error: StatusError | None = None
    servable: object = None
    tries: int = 0
    again: float = 0.0  # not tried again before this time
    calls: int = 0  # in flight

    @property
    def available(self) -> bool:
        """Whether requests may be sent to it."""
        return self.state == State.AVAILABLE


class Model:
    """The versions of one model; threads may share it.

    A new version is loaded before an old one is unloaded, and requests that run on the old one
    finish. A version that cannot be loaded replaces no other.

    Args:
        config: What is asked for.
        load: Makes a servable of a version's directory and the model's name; raises StatusError.
            A servable has `close()`.
        retries: How often a version that failed is tried again.
        interval: Seconds between tries.
    """

    def __init__(
        self,
        config: ModelConfig,
        load: Callable[[Path, str], object],
        retries: int = 5,
        interval: float = 60.0,
    ):
        self.config = config
        self._load, self._retries, self._interval = load, retries, interval
        self._versions: dict[int, Version] = {}
        self._lock = threading.Condition()
        self._told = ""

    def versions(self) -> list[Version]:
        """Return all versions seen so far, newest first."""
        with self._lock:
            return sorted(self._versions.values(), key=lambda version: -version.number)

    def loaded(self) -> set[int]:
        """Return the numbers of the versions that answer."""
        return {version.number for version in self.versions() if version.available}

    @property
    def ready(self) -> bool:
        """Whether a version answers."""
        return any(version.available for version in self.versions())

    @property
    def busy(self) -> bool:
        """Whether requests run on it."""
        return any(version.calls for version in self.versions())

    @property
    def hoped(self) -> bool:
        """Whether it may still answer without a change of its directory: not all has failed."""
        versions = self.versions()
        return not versions or any(version.error is None for version in versions)

    @property
    def reason(self) -> str:
        """Why it does not answer."""
        errors = [version.error.message for version in self.versions() if version.error]
        return errors[0] if errors else self._told or "it was removed, or is still loading"

    def refresh(self) -> None:
        """Load new versions and unload those no longer asked for. One thread at a time.

        Whatever is wrong with the directory concerns this model alone: it is logged, once.
        """
        try:
            self._refresh()
        except Exception as error:
            self._tell(f"{type(error).__name__}: {error}".split("\n")[0])

    def _refresh(self) -> None:
        wanted = self.config.wanted()
        self._tell("" if wanted else self.config.missing())
        with self._lock:
            for number, version in self._versions.items():
                if number not in (wanted or ()):  # published again, it is tried like a new one
                    version.tries, version.again = 0, 0.0
        if wanted is None:
            return
        for number in wanted:
            with self._lock:
                version = self._versions.get(number)
                if version is None or (version.state == State.END and version.error is None):
                    version = self._versions[number] = Version(number)
            if version.state == State.START or self._due(version):
                self._try(version)
        loaded = [number for number in wanted if self._versions[number].available]
        if loaded or not wanted:
            self._unload_all_but(wanted)

    def _tell(self, missing: str) -> None:
        """Log why there is nothing to serve: once, and again when the reason changes."""
        if missing and missing != self._told:
            logging.warning("%s: waiting for a version: %s", self.config.name, missing)
        self._told = missing

    def _due(self, version: Version) -> bool:
        return (
            version.error is not None
            and version.tries <= self._retries
            and time.monotonic() >= version.again
        )

    def _try(self, version: Version) -> None:
        """Load a version, or keep the reason why it cannot be loaded."""
        version.state, version.tries = State.LOADING, version.tries + 1
        name = self.config.name
        try:
            servable = self._loaded(version.number)
        except StatusError as error:
            version.again = time.monotonic() + self._interval
            version.error, version.state = error, State.END
            logging.error("%s, version %d: %s", name, version.number, error.message)
        else:
            with self._lock:
                version.servable, version.error = servable, None
                version.state = State.AVAILABLE
            logging.info("%s, version %d: available", name, version.number)

    def _loaded(self, number: int):
        """Return the servable of a version; raises StatusError, whatever is wrong with it."""
        try:
            return self._load(self.config.path(number), self.config.name)
        except StatusError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}".split("\n")[0]
            raise StatusError(
                grpc.StatusCode.UNKNOWN, f"Could not load version {number}: {why}"
            ) from None

    def _unload_all_but(self, wanted: list[int]) -> None:
        with self._lock:
            old = [v for n, v in self._versions.items() if n not in wanted and v.available]
            for version in old:
                version.state = State.UNLOADING
            for number, version in self._versions.items():
                if number not in wanted and version.state in (State.START, State.LOADING):
                    version.state = State.END
        for version in old:
            threading.Thread(target=self._drain, args=(version,), daemon=True).start()

    def _drain(self, version: Version) -> None:
        """Wait for the requests that run on a version, then free it."""
        with self._lock:
            self._lock.wait_for(lambda: version.calls == 0)
            servable, version.servable = version.servable, None
            version.state = State.END
        servable.close()
        logging.info("%s, version %d: unloaded", self.config.name, version.number)

    def unload(self) -> None:
        """Unload every version."""
        self._unload_all_but([])

    @contextmanager
    def lease(self, number: int | None):
        """Hold a version (None: the newest) while a request runs on it; raises StatusError."""
        with self._lock:
            available = [n for n, version in self._versions.items() if version.available]
            if not available or number not in (None, *available):
                asked = f"Latest({self.config.name})"
                if number is not None:
                    asked = f"Specific({self.config.name}, {number})"
                raise not_found(asked)
            version = self._versions[max(available) if number is None else number]
            version.calls += 1
        try:
            yield version
        finally:
            with self._lock:
                version.calls -= 1
                if not version.calls:
                    self._lock.notify_all()
