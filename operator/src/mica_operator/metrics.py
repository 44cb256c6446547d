"""Metrics of the operator."""

from __future__ import annotations

from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

KINDS: Final = ("InferenceService", "VGPUPool")
"""What is looked at."""
OUTCOMES: Final = ("done", "api_error", "bug")
WRITTEN: Final = ("Deployment", "Service")


class Metrics:
    """``mica_operator_*``; labels are bounded (kinds and outcomes, never names), and every series is there from the start."""

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
        for kind, outcome in product(KINDS, OUTCOMES):
            self.reconciles.labels(kind, outcome)
        for kind in KINDS:
            self.seconds.labels(kind)
        for kind in WRITTEN:
            self.writes.labels(kind)
