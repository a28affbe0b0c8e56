"""Counts and times of a service for Prometheus, summed over its replicas."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of Prometheus' text format."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
STALE_SECONDS = 15.0
"""Age from which a replica is taken to be gone: its counts remain, its queue does not."""


class ServiceMetrics:
    """Those of one replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "qdet_requests", "Answered requests.", ("path", "status"), registry=self.registry
        )
        self.request_seconds = Histogram(
            "qdet_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_images = Histogram(
            "qdet_batch_images", "Images per forward pass.", buckets=BATCHES, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "qdet_batch_seconds",
            "Time of a batch: decoding, resizing and the model.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge("qdet_waiting_images", "Images that wait for a batch.", registry=self.registry)
        self.running = Gauge(
            "qdet_running_requests", "Requests for predictions that are not answered.", registry=self.registry
        )

    def observe_batch(self, images: int, seconds: float) -> None:
        """Count a batch."""
        self.batch_images.observe(images)
        self.batch_seconds.observe(seconds)

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(path, str(status)).inc()
        self.request_seconds.labels(path).observe(seconds)

    def collect(self) -> list[Metric]:
        """Return the current numbers."""
        return list(self.registry.collect())


@dataclass
class MetricsBoard:
    """The last numbers of every replica; lives in one process that all replicas write to."""

    _last: dict[str, tuple[float, Sequence[Metric]]] = field(default_factory=dict)

    def report(self, replica: str, metrics: Sequence[Metric]) -> None:
        """Replace the numbers of a replica."""
        self._last[replica] = (time.monotonic(), metrics)

    def collect(self) -> list[Metric]:
        """Return the sums over all replicas, also those that are gone, of which only counts remain."""
        alive = time.monotonic() - STALE_SECONDS
        return sum_metrics(
            metric
            for at, metrics in self._last.values()
            for metric in metrics
            if at > alive or _counts(metric)
        )


def sum_metrics(metrics: Iterable[Metric]) -> list[Metric]:
    """Add up samples of the same name and labels."""
    sums: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for metric in metrics:
        sums.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
        of_name = values.setdefault(metric.name, {})
        for sample in metric.samples:
            if not sample.name.endswith("_created"):
                key = sample.name, tuple(sample.labels.items())
                of_name[key] = of_name.get(key, 0.0) + sample.value
    for name, metric in sums.items():
        for (sample, labels), value in values[name].items():
            metric.add_sample(sample, dict(labels), value)
    return list(sums.values())


def write_text(metrics: Sequence[Metric]) -> bytes:
    """Return them in Prometheus' text format."""
    return generate_latest(_Collected(metrics))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class _Collected:
    metrics: Sequence[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


def _counts(metric: Metric) -> bool:
    return metric.type in ("counter", "histogram")
