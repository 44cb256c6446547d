"""Metrics of the node: what slices were given and use, what the cards do, and the agent's own counters.

Usage comes from regions that containers write: it is validated and good for graphs only. Every series of a slice exists from the
moment of its decision, with zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mica_api.allocation import GPUShare
from mica_api.sharing import CardCapacity
from mica_device_plugin.region import GPUUsage, InvalidRegion, read_region
from mica_device_plugin.settings import Layout
from mica_device_plugin.state import AgentState
from mica_device_plugin.values import Pin, slice_key
from mica_device_plugin.verify import Reason

_SLICE_LABELS: Final = ("namespace", "pod", "container", "gpu")
_GPU_LABELS: Final = ("gpu", "model")
_MIB: Final = 2**20
_NS: Final = 1e9
_NOTHING: Final = CardCapacity(0, 0, 0)
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 25.0)


class AgentMetrics:
    """Counters of the agent itself, all at zero from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.start_seconds = Histogram(
            "mica_node_container_start_seconds", "Time PreStartContainer took", buckets=_BUCKETS, registry=registry
        )
        self.refusals = Counter("mica_node_refusals", "Container starts refused", ["reason"], registry=registry)
        self.registrations = Counter("mica_node_kubelet_registrations", "Registrations with the kubelet", registry=registry)
        for reason in Reason:
            self.refusals.labels(reason.value)


@dataclass(frozen=True, slots=True)
class SliceSample:
    """One slice share with what its region says; None when it says nothing credible."""

    labels: tuple[str, str, str, str]
    share: GPUShare
    usage: GPUUsage | None


class NodeCollector(Collector):
    """Reads state and regions when scraped."""

    def __init__(self, *, state: AgentState, layout: Layout) -> None:
        self._state = state
        self._layout = layout

    def collect(self) -> Iterator[Metric]:
        """All families; families without samples are there too."""
        invalid = 0
        samples: list[SliceSample] = []
        for pin in self._state.pins.values():
            for sample, bad in self._samples(pin):
                samples.append(sample)
                invalid += bad
        yield from _slice_families(samples)
        yield from self._gpu_families()
        yield GaugeMetricFamily("mica_node_invalid_regions", "Usage regions that make no sense", value=invalid)
        registered = GaugeMetricFamily(
            "mica_node_kubelet_registered", "Whether the kubelet has the device plugin", value=float(self._state.registered)
        )
        yield registered
        yield GaugeMetricFamily(
            "mica_node_driver_names_unlimited",
            "Functions that the driver has and the limiter lacks",
            value=len(self._state.unlimited_names),
        )

    def _samples(self, pin: Pin) -> Iterator[tuple[SliceSample, bool]]:
        for container in pin.containers:
            usages, invalid = _usages(self._layout.region_file(slice_key(container.slots))) if container.slots else ({}, False)
            for number, share in enumerate(container.shares):
                labels = (pin.namespace, pin.pod, container.name, share.uuid)
                yield SliceSample(labels, share, usages.get(share.uuid)), invalid and number == 0

    def _gpu_families(self) -> Iterator[Metric]:
        families = {
            name: GaugeMetricFamily(f"mica_node_gpu_{name}", text, labels=_GPU_LABELS)
            for name, text in (
                ("memory_total_bytes", "Memory of the card"),
                ("memory_used_bytes", "Memory in use, as the driver says"),
                ("utilization_ratio", "Share of time in which any kernel ran, as the driver says"),
                ("healthy", "Whether the card answers"),
                ("slices_capacity", "Slices that may share the card"),
                ("memory_capacity_bytes", "Memory that may be given to slices, overcommit included"),
                ("compute_capacity_ratio", "Compute that may be given to slices, overcommit included; 1 = the whole card"),
                ("slices_allocated", "Slices on the card"),
                ("memory_allocated_bytes", "Memory given to slices"),
                ("compute_allocated_ratio", "Compute given to slices, 1 = the whole card"),
            )
        }
        shares: dict[str, list[GPUShare]] = {}
        for share in (s for pin in self._state.pins.values() for c in pin.containers for s in c.shares):
            shares.setdefault(share.uuid, []).append(share)
        readings = self._state.survey.readings if self._state.survey else {}
        for gpu in self._state.gpus:
            labels, mine, reading = (gpu.uuid, gpu.model), shares.get(gpu.uuid, []), readings.get(gpu.uuid)
            families["memory_total_bytes"].add_metric(labels, gpu.memory_mib * _MIB)
            families["healthy"].add_metric(labels, float(gpu.healthy))
            capacity = self._state.pool.capacity(gpu) if self._state.pool is not None else _NOTHING
            families["slices_capacity"].add_metric(labels, capacity.slices)
            families["memory_capacity_bytes"].add_metric(labels, capacity.memory_mib * _MIB)
            families["compute_capacity_ratio"].add_metric(labels, capacity.cores / 100)
            families["slices_allocated"].add_metric(labels, len(mine))
            families["memory_allocated_bytes"].add_metric(labels, sum(s.memory_mib for s in mine) * _MIB)
            families["compute_allocated_ratio"].add_metric(labels, sum(s.cores for s in mine) / 100)
            if reading is not None and reading.memory_used is not None:
                families["memory_used_bytes"].add_metric(labels, reading.memory_used)
            if reading is not None and reading.utilization is not None:
                families["utilization_ratio"].add_metric(labels, reading.utilization)
        yield from families.values()


def _usages(path: Path) -> tuple[Mapping[str, GPUUsage], bool]:
    try:
        return {usage.uuid: usage for usage in read_region(path)}, False
    except InvalidRegion:
        return {}, True


def _slice_families(samples: Iterable[SliceSample]) -> Iterator[Metric]:
    used = GaugeMetricFamily("mica_node_slice_memory_used_bytes", "GPU memory charged to the slice", labels=_SLICE_LABELS)
    limit = GaugeMetricFamily("mica_node_slice_memory_limit_bytes", "GPU memory the slice may use", labels=_SLICE_LABELS)
    share = GaugeMetricFamily(
        "mica_node_slice_compute_limit_ratio", "Compute the slice may use, 1 = the whole card, 0 = uncapped", labels=_SLICE_LABELS
    )
    busy = CounterMetricFamily("mica_node_slice_compute_busy_seconds", "GPU time used by the slice", labels=_SLICE_LABELS)
    waited = CounterMetricFamily(
        "mica_node_slice_throttled_seconds", "Time that launches were made to wait", labels=_SLICE_LABELS
    )
    launches = CounterMetricFamily("mica_node_slice_launches", "Kernel launches", labels=_SLICE_LABELS)
    denials = CounterMetricFamily("mica_node_slice_memory_denials", "Allocations refused by the limit", labels=_SLICE_LABELS)
    for sample in samples:
        usage = sample.usage
        used.add_metric(sample.labels, usage.used if usage else 0)
        limit.add_metric(sample.labels, sample.share.memory_mib * _MIB)
        share.add_metric(sample.labels, sample.share.cores / 100)
        busy.add_metric(sample.labels, usage.busy_ns / _NS if usage else 0)
        waited.add_metric(sample.labels, usage.throttled_ns / _NS if usage else 0)
        launches.add_metric(sample.labels, usage.launches if usage else 0)
        denials.add_metric(sample.labels, usage.denials if usage else 0)
    yield from (used, limit, share, busy, waited, launches, denials)
