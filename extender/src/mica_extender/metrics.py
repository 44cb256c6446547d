"""Metrics of the extender. Base units; the ledger's sizes are read when somebody asks."""

from __future__ import annotations

from functools import partial
from itertools import product
from time import perf_counter
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mica_extender.admission.pod import Refusal
from mica_extender.placement import Code
from mica_extender.scheduling.declined import Decline
from mica_extender.state.ledger import Ledger

VERBS: Final = ("filter", "prioritize", "bind", "preempt")
STAGES: Final = ("mutate", "validate")
INVALID_REQUEST: Final = "InvalidRequest"
"""Reason of a refusal that no card is to blame for: the pod's request cannot be honoured."""
_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """All collectors of the process, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._verbs = {
            verb: Histogram(
                f"mica_extender_{verb}_seconds",
                f"Time to answer {verb}.",
                buckets=_BUCKETS,
                registry=registry,
            )
            for verb in (*VERBS, "admission")
        }
        self.refusals = Counter(
            "mica_extender_refusals", "Nodes refused in filter answers, by reason.", ("code",), registry=registry
        )
        self.errors = Counter("mica_extender_errors", "Scheduler verbs answered with an error.", ("verb",), registry=registry)
        self.declined = Counter(
            "mica_extender_binds_declined", "Binds answered with an error, by reason.", ("reason",), registry=registry
        )
        self.denied = Counter(
            "mica_extender_admission_denied",
            "Pods refused at admission, by stage and reason.",
            ("stage", "reason"),
            registry=registry,
        )
        self.pokes = Counter("mica_extender_pokes", "Changes announced to kube-scheduler.", registry=registry)
        self.missed = Counter(
            "mica_extender_samples_missed",
            "Filter answers that refused every node of kube-scheduler's sample although another node fits.",
            registry=registry,
        )
        self.held = Counter(
            "mica_extender_filters_held", "Filter calls that waited because many binds were under way.", registry=registry
        )
        self.evictions = Counter(
            "mica_extender_evictions", "Evictions of pods that a node agent refused.", ("outcome",), registry=registry
        )
        self.events = Counter("mica_extender_events", "Events about waiting pods, by outcome.", ("outcome",), registry=registry)
        self.drift = Gauge(
            "mica_extender_ledger_drift_cards",
            "GPUs of which the ledger counts something else than a fresh list of the API says, in two comparisons in a row.",
            registry=registry,
        )
        self.compared = Gauge(
            "mica_extender_ledger_compared_timestamp_seconds",
            "Unix time of the last comparison with the API; 0 before the first, and on replicas that do not lead.",
            registry=registry,
        )
        self._declare()

    def _declare(self) -> None:
        """Every series that can be is there from the start, at zero: a counter that appears with its first event hides it."""
        for counter, values in (
            (self.refusals, (*Code, INVALID_REQUEST)),
            (self.errors, VERBS),
            (self.declined, Decline),
            (self.evictions, ("done", "retry")),
            (self.events, ("written", "failed")),
        ):
            for value in values:
                counter.labels(str(value))
        for stage, reason in product(STAGES, Refusal):
            self.denied.labels(stage, str(reason))

    def took(self, verb: str, started: float) -> None:
        """Count what a verb has taken since ``started``, a moment of ``perf_counter``."""
        self._verbs[verb].observe(perf_counter() - started)

    def bind_declined(self, reason: Decline) -> None:
        """Count a bind that was answered with an error."""
        self.declined.labels(str(reason)).inc()

    def watch_ledger(self, ledger: Ledger) -> None:
        """Export the ledger's sizes."""
        help_of = {
            "nodes": "Nodes with a VGPUNode.",
            "cards": "GPUs of those nodes.",
            "pods": "Bound pods that count.",
            "reservations": "Decisions that the watch has not confirmed yet.",
        }
        for name, text in help_of.items():
            gauge = Gauge(f"mica_extender_ledger_{name}", text, registry=self.registry)
            gauge.set_function(partial(_size, ledger, name))


def _size(ledger: Ledger, name: str) -> float:
    return float(getattr(ledger.size(), name))
