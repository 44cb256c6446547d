"""Counters of the data path as plain integers; Prometheus objects exist only while a scrape is answered.

A counter object per event would cost more than the relay itself. One event loop owns the numbers, so there are no locks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

TTFB_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
NO_MODEL: Final = ""


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """What is asked of a model right now. `queued`: accepted and not yet handed to an engine."""

    in_flight: int
    queued: int


@dataclass(slots=True)
class _Histogram:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(TTFB_BUCKETS) + 1))
    total: float = 0.0


class RouterMetrics:
    """Written by the relay, read by `MetricsCollector`. Models appear under the public names that they are served by."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        self.upstream_errors: dict[tuple[str, str], int] = {}
        self.retries: dict[tuple[str, str], int] = {}
        self.ttfb: dict[str, _Histogram] = {}

    def request_done(self, model: str, code: int) -> None:
        """Count one answer. 499 stands for a client that left before the end, 599 for an answer that was cut."""
        key = (model, code)
        self.requests[key] = self.requests.get(key, 0) + 1

    def upstream_error(self, model: str, reason: str) -> None:
        """Count one failure of an engine."""
        key = (model, reason)
        self.upstream_errors[key] = self.upstream_errors.get(key, 0) + 1

    def retried(self, model: str, reason: str) -> None:
        """Count one request that was sent once more."""
        key = (model, reason)
        self.retries[key] = self.retries.get(key, 0) + 1

    def keep_only(self, models: Set[str]) -> None:
        """Forget models that are no longer served; a request that is still under way brings its model back for a while."""
        kept = models | {NO_MODEL}
        self.requests = {key: count for key, count in self.requests.items() if key[0] in kept}
        self.upstream_errors = {key: count for key, count in self.upstream_errors.items() if key[0] in kept}
        self.retries = {key: count for key, count in self.retries.items() if key[0] in kept}
        self.ttfb = {model: histogram for model, histogram in self.ttfb.items() if model in kept}

    def first_byte(self, model: str, seconds: float) -> None:
        """Record one time to first byte."""
        histogram = self.ttfb.get(model)
        if histogram is None:
            histogram = self.ttfb[model] = _Histogram()
        histogram.buckets[bisect_left(TTFB_BUCKETS, seconds)] += 1
        histogram.total += seconds


class MetricsCollector(Collector):
    """Renders the numbers at scrape time."""

    def __init__(
        self,
        metrics: RouterMetrics,
        *,
        demand: Callable[[], Mapping[str, ModelDemand]],
        connections: Callable[[], int],
        buffered: Callable[[], int],
    ) -> None:
        self._metrics = metrics
        self._demand = demand
        self._connections = connections
        self._buffered = buffered

    def collect(self) -> Iterator[Metric]:
        """Every family, built from the numbers of this moment."""
        yield from self._counters()
        yield from self._gauges()
        yield self._ttfb()

    def _counters(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "mica_router_requests", "Requests answered, by model and status code.", labels=["model", "code"]
        )
        for (model, code), count in self._metrics.requests.items():
            requests.add_metric([model, str(code)], count)
        yield requests
        errors = CounterMetricFamily(
            "mica_router_upstream_errors", "Failures of engines, by model and kind.", labels=["model", "reason"]
        )
        for (model, reason), count in self._metrics.upstream_errors.items():
            errors.add_metric([model, reason], count)
        yield errors
        retries = CounterMetricFamily(
            "mica_router_retries", "Requests sent once more, by model and cause.", labels=["model", "reason"]
        )
        for (model, reason), count in self._metrics.retries.items():
            retries.add_metric([model, reason], count)
        yield retries

    def _gauges(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            "mica_router_in_flight_requests", "Requests that an engine is working on.", labels=["model"]
        )
        queued = GaugeMetricFamily("mica_router_queued_requests", "Requests not yet handed to an engine.", labels=["model"])
        for model, demand in self._demand().items():
            in_flight.add_metric([model], demand.in_flight)
            queued.add_metric([model], demand.queued)
        yield in_flight
        yield queued
        yield GaugeMetricFamily("mica_router_client_connections", "Open client connections.", value=self._connections())
        yield GaugeMetricFamily("mica_router_buffered_request_bytes", "Bytes of requests that are held.", value=self._buffered())

    def _ttfb(self) -> Metric:
        family = HistogramMetricFamily(
            "mica_router_time_to_first_byte_seconds",
            "From the whole request read to the engine's first byte.",
            labels=["model"],
        )
        for model, histogram in self._metrics.ttfb.items():
            running, rows = 0, []
            for bound, count in zip((*map(str, TTFB_BUCKETS), "+Inf"), histogram.buckets, strict=True):
                running += count
                rows.append((bound, running))
            family.add_metric([model], rows, sum_value=histogram.total)
        return family
