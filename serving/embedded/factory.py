"""From a version's directory to a servable: loaded, warmed up, and batching if that is wanted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tensorflow.core.protobuf import config_pb2

from serving.embedded import warm_up
from serving.embedded.batching import Batcher
from serving.embedded.errors import ConfigError, invalid
from serving.embedded.options import BatchingOptions
from serving.embedded.protos import BatchingParameters, read
from serving.embedded.servable import Servable, settle

PER_MODEL = "batching_params.pbtxt"  # in a version's directory


@dataclass(frozen=True)
class ServableFactory:
    """Loads versions: (path, model's name) -> servable. Raises StatusError.

    Args:
        cpus: Of the machine: batches that run at a time unless parameters say otherwise.
        tags: Of the meta graph.
        config: Of the sessions.
        warm: Whether to run the requests that come with a version.
        warm_times: How often to run each of them.
        batching: How to batch; None: not at all.
        per_model: Whether a version's own file says how to batch it; without one it is not batched.
        observe: Called with the model's name and the size of every batch that ran.
    """

    cpus: int
    tags: tuple[str, ...] = ("serve",)
    config: config_pb2.ConfigProto = field(default_factory=config_pb2.ConfigProto)
    warm: bool = True
    warm_times: int = 1
    batching: BatchingOptions | None = None
    per_model: bool = False
    observe: Callable[[str, int], None] = lambda name, size: None

    def __call__(self, path: Path, name: str) -> "Servable | BatchedServable":
        servable = Servable(path, self.tags, self.config)
        try:
            batching = self._batching(path)
            if self.warm:
                warm_up.run(servable, path, self.warm_times)
        except Exception:
            servable.close()
            raise
        settle()
        if batching is None:
            return servable
        return BatchedServable(servable, batching, lambda size: self.observe(name, size))

    def _batching(self, path: Path) -> BatchingOptions | None:
        if self.batching is None or not self.per_model:
            return self.batching
        file = path / PER_MODEL
        if not file.exists():
            return None
        try:
            return BatchingOptions.of(read(file, BatchingParameters), self.cpus)
        except ConfigError as error:
            raise invalid(str(error).replace(str(file), PER_MODEL)) from None


class BatchedServable:
    """A servable whose calls are batched."""

    def __init__(
        self, servable: Servable, batching: BatchingOptions, observe: Callable[[int], None]
    ):
        self.signatures, self.all_signatures = servable.signatures, servable.all_signatures
        self.signature, self.close = servable.signature, servable.close
        self.run = Batcher(servable.run, batching, observe)
