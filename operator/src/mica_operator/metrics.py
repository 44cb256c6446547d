"""Metrics of the operator."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram


class Metrics:
    """``mica_operator_*``; labels are bounded (kinds and outcomes, never names)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reconciles = Counter(
            "mica_operator_reconciles", "Looks at one object, by kind and outcome.", ["kind", "outcome"], registry=registry
        )
        self.seconds = Histogram(
            "mica_operator_reconcile_seconds",
            "Duration of one look at one object.",
            ["kind"],
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        self.writes = Counter("mica_operator_writes", "Objects applied, by kind.", ["kind"], registry=registry)
