"""The relay's numbers as one value that can be sent and added, and as Prometheus families at scrape time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mica_router.metrics import GAP_BUCKETS, NO_MODEL, TTFB_BUCKETS, ModelDemand
from mica_router.relay.context import RelayContext

Labels = tuple[str, ...]
_Value = TypeVar("_Value")


class HistogramValue(msgspec.Struct, frozen=True):
    """Counts per bucket and the sum."""

    buckets: list[int]
    total: float


class Snapshot(msgspec.Struct, kw_only=True):
    """The numbers of one worker, or of several together. Families by name, values by labels."""

    counters: dict[str, dict[Labels, int]] = {}
    histograms: dict[str, dict[Labels, HistogramValue]] = {}
    demand: dict[str, ModelDemand] = {}
    connections: int = 0
    buffered: int = 0


class _Family(NamedTuple):
    name: str
    text: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()


_COUNTERS: Final = (
    _Family("requests", "Requests answered, by model and status code.", ("model", "code")),
    _Family("upstream_errors", "Failures of engines, by model and kind.", ("model", "reason")),
    _Family("retries", "Requests sent once more, by model and cause.", ("model", "reason")),
    _Family("decisions", "Engines chosen, by model, tier and reason.", ("model", "tier", "reason")),
    _Family("holds", "Requests that had to wait for an engine.", ("model", "reason")),
    _Family("resumes", "Broken streams that went on at another engine.", ("model",)),
    _Family("resume_refusals", "Broken streams that could not go on, by reason.", ("model", "reason")),
    _Family("ejections", "Engines taken out of use, by cause.", ("reason",)),
)
_HISTOGRAMS: Final = (
    _Family("time_to_first_byte_seconds", "From the whole request read to the engine's head.", ("model",), TTFB_BUCKETS),
    _Family("time_to_first_token_seconds", "To the first event of a stream.", ("model", "tier"), TTFB_BUCKETS),
    _Family("inter_token_seconds", "Between two reads of a stream.", ("model", "tier"), GAP_BUCKETS),
    _Family("queue_seconds", "From the whole request read to its being sent to an engine.", ("model", "tier"), TTFB_BUCKETS),
)


def take_snapshot(context: RelayContext) -> Snapshot:
    """The numbers of this moment."""
    metrics = context.metrics
    counters: dict[str, dict[Labels, int]] = {
        family.name: {_labels(key): value for key, value in getattr(metrics, family.name).items()}
        for family in _COUNTERS
        if family.name != "ejections"
    }
    counters["ejections"] = {(reason,): value for reason, value in context.load.health.ejections.items()}
    histograms: dict[str, dict[Labels, HistogramValue]] = {family.name: {} for family in _HISTOGRAMS}
    for model, histogram in metrics.ttfb.items():
        histograms["time_to_first_byte_seconds"][(model,)] = HistogramValue(list(histogram.buckets), histogram.total)
    for labels, series in metrics.timings.items():
        for name, timed in (
            ("time_to_first_token_seconds", series.first_token),
            ("inter_token_seconds", series.gap),
            ("queue_seconds", series.queue),
        ):
            histograms[name][labels] = HistogramValue(list(timed.buckets), timed.total)
    return Snapshot(
        counters=counters,
        histograms=histograms,
        demand=dict(context.load.demand(context.table)),
        connections=len(context.connections),
        buffered=context.budget.held,
    )


def _labels(key: Any) -> Labels:
    return tuple(map(str, key)) if isinstance(key, tuple) else (str(key),)


def add(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The numbers of several workers together."""
    total = Snapshot(counters={}, histograms={}, demand={})
    for one in snapshots:
        total.connections += one.connections
        total.buffered += one.buffered
        for name, values in one.counters.items():
            counts = total.counters.setdefault(name, {})
            for labels, value in values.items():
                counts[labels] = counts.get(labels, 0) + value
        for name, timed in one.histograms.items():
            histograms = total.histograms.setdefault(name, {})
            for labels, histogram in timed.items():
                histograms[labels] = _sum(histograms.get(labels), histogram)
        for model, demand in one.demand.items():
            known = total.demand.get(model)
            total.demand[model] = demand if known is None else known.plus(demand)
    return total


def keep_models(snapshot: Snapshot, models: Set[str]) -> Snapshot:
    """The numbers of these models, and those of none."""
    kept = models | {NO_MODEL}
    families = {family.name for family in (*_COUNTERS, *_HISTOGRAMS) if family.labels[0] == "model"}
    return Snapshot(
        counters={name: _of_models(values, kept, name in families) for name, values in snapshot.counters.items()},
        histograms={name: _of_models(values, kept, name in families) for name, values in snapshot.histograms.items()},
        demand=snapshot.demand,
        connections=snapshot.connections,
        buffered=snapshot.buffered,
    )


def _of_models(values: dict[Labels, _Value], models: Set[str], by_model: bool) -> dict[Labels, _Value]:
    return {labels: value for labels, value in values.items() if labels[0] in models} if by_model else values


def _sum(one: HistogramValue | None, other: HistogramValue) -> HistogramValue:
    if one is None:
        return other
    return HistogramValue([a + b for a, b in zip(one.buckets, other.buckets, strict=True)], one.total + other.total)


class RouterCollector(Collector):
    """Renders a snapshot at scrape time."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Every family, built from the numbers of this moment."""
        snapshot = self._snapshot()
        for family in _COUNTERS:
            counter = CounterMetricFamily(f"mica_router_{family.name}", family.text, labels=family.labels)
            for labels, count in snapshot.counters.get(family.name, {}).items():
                counter.add_metric(labels, count)
            yield counter
        for family in _HISTOGRAMS:
            yield _histogram(family, snapshot.histograms.get(family.name, {}))
        yield from _gauges(snapshot)


def _histogram(family: _Family, values: dict[Labels, HistogramValue]) -> Metric:
    metric = HistogramMetricFamily(f"mica_router_{family.name}", family.text, labels=family.labels)
    for labels, value in values.items():
        running, rows = 0, []
        for bound, count in zip((*map(str, family.bounds), "+Inf"), value.buckets, strict=True):
            running += count
            rows.append((bound, running))
        metric.add_metric(labels, rows, sum_value=value.total)
    return metric


def _gauges(snapshot: Snapshot) -> Iterator[Metric]:
    in_flight = GaugeMetricFamily("mica_router_in_flight_requests", "Requests that an engine is working on.", labels=["model"])
    queued = GaugeMetricFamily("mica_router_queued_requests", "Requests not yet handed to an engine.", labels=["model"])
    for model, demand in snapshot.demand.items():
        in_flight.add_metric([model], demand.in_flight)
        queued.add_metric([model], demand.queued)
    yield in_flight
    yield queued
    yield GaugeMetricFamily("mica_router_client_connections", "Open client connections.", value=snapshot.connections)
    yield GaugeMetricFamily("mica_router_buffered_request_bytes", "Bytes of requests that are held.", value=snapshot.buffered)
