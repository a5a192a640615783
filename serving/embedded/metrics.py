"""What Prometheus reads. The names are TF Serving's if it has the metric, too."""

from collections.abc import Callable, Collection

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

PATH = "/monitoring/prometheus/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4"
_MICROSECONDS = [10 * 1.8**i for i in range(33)]  # tensorflow_serving/servables/tensorflow/util.cc
_SIZES = [2**i for i in range(15)]
# Requests for unknown models share a label: clients can invent any number of names.
_OTHERS = ""


class Metrics:
    """Counters and histograms of a server; threads may share it.

    Args:
        served: Returns the names of the models. Only they are labels; None: every name is.
    """

    def __init__(self, served: Callable[[], Collection[str]] | None = None):
        self._served, self._seen = served, set()
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self._count = Counter(
            ":tensorflow:serving:request_count",
            "The total number of requests.",
            ["model_name", "status"],
            registry=self.registry,
        )
        self._latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Distribution of wall time (in microseconds) for Tensorflow Serving request.",
            ["model_name", "API", "entrypoint"],
            registry=self.registry,
            buckets=_MICROSECONDS,
        )
        self._sizes = Histogram(
            ":tensorflow:serving:batching_session:processed_batch_size",
            "Distribution of the number of examples in a batch, before padding.",
            ["model_name"],
            registry=self.registry,
            buckets=_SIZES,
        )

    def request(
        self, model: str, api: str, entrypoint: str, code: grpc.StatusCode, seconds: float
    ) -> None:
        """Count a request that was answered, with any status."""
        model = self._known(model)
        self._count.labels(model, code.name).inc()
        if code is grpc.StatusCode.OK:
            self._latency.labels(model, api, entrypoint).observe(seconds * 1e6)

    def batch(self, model: str, size: int) -> None:
        """Count a batch of this many examples."""
        self._sizes.labels(self._known(model)).observe(size)

    def _known(self, model: str) -> str:
        """Return the label of a model, and forget those that are no longer served."""
        if self._served is None:
            return model
        names = self._served()
        if model not in names:
            return _OTHERS
        if model not in self._seen:
            for old in self._seen - set(names):
                for metric in (self._count, self._latency, self._sizes):
                    metric.remove_by_labels({"model_name": old})
            self._seen = (self._seen & set(names)) | {model}
        return model

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        # The client library adds _total to the names of counters; TF Serving does not.
        return generate_latest(self.registry).replace(b"request_count_total", b"request_count")
