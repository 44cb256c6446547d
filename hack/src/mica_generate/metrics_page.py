"""The tables of docs/metrics.md, from what the components export. What stands between the tables is written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from mica_device_plugin.metrics import AgentMetrics, NodeCollector
from mica_device_plugin.settings import Layout
from mica_device_plugin.state import AgentState
from mica_extender.metrics import Metrics
from mica_extender.state.ledger import Ledger
from mica_operator.metrics import Metrics as OperatorMetrics
from mica_router.exposition import RouterCollector, Snapshot

PAGE: Final = "docs/metrics.md"
_NOWHERE: Final = Path("/nowhere")


def metrics_page(text: str) -> str:
    """The page with tables that are true. Raises ValueError when a table has no place in ``text``."""
    for component, registry in _REGISTRIES.items():
        begin, end = f"<!-- {component}: begin -->\n", f"<!-- {component}: end -->\n"
        before, opened, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise ValueError(f"{PAGE}: the lines {begin.strip()} and {end.strip()} are needed around the table of {component}")
        text = "".join((before, begin, *(f"{row}\n" for row in _table(registry())), end, after))
    return text


def _table(registry: CollectorRegistry) -> list[str]:
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in sorted(registry.collect(), key=lambda one: one.name):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        shown = "; ".join(
            f"`{label}`: {', '.join(values)}" if values else f"`{label}`" for label, values in _labels(family).items()
        )
        rows.append(f"| `{name}` | {family.type} | {shown} | {family.documentation.rstrip('.')}. |")
    return rows


def _labels(family: Metric) -> Mapping[str, list[str]]:
    """Labels, with the values that are there from the start."""
    found: dict[str, list[str]] = {label: [] for label in getattr(family, "_labelnames", ())}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le" and value not in found.setdefault(label, []):
                found[label].append(value)
    return found


def _extender() -> CollectorRegistry:
    metrics = Metrics(CollectorRegistry())
    metrics.watch_ledger(Ledger())
    return metrics.registry


def _router() -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(RouterCollector(Snapshot))
    return registry


def _node() -> CollectorRegistry:
    registry = CollectorRegistry()
    AgentMetrics(registry)
    layout = Layout(run=_NOWHERE, lib=_NOWHERE, cdi=_NOWHERE, kubelet=_NOWHERE)
    registry.register(NodeCollector(state=AgentState(node_name="node"), layout=layout))
    return registry


def _operator() -> CollectorRegistry:
    registry = CollectorRegistry()
    OperatorMetrics(registry)
    return registry


_REGISTRIES: Final[Mapping[str, Callable[[], CollectorRegistry]]] = {
    "extender": _extender,
    "router": _router,
    "node": _node,
    "operator": _operator,
}
