"""Every series is there from the start."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from mica_extender.metrics import INVALID_REQUEST, Metrics
from mica_extender.placement import Code
from mica_extender.state.ledger import Ledger


def extender_registry() -> CollectorRegistry:
    metrics = Metrics(CollectorRegistry())
    metrics.watch_ledger(Ledger())
    return metrics.registry


def test_every_refusal_reason_is_counted_from_zero() -> None:
    registry = extender_registry()
    for code in (*Code, INVALID_REQUEST):
        assert registry.get_sample_value("mica_extender_refusals_total", {"code": str(code)}) == 0


def test_every_verb_and_the_webhook_have_a_histogram() -> None:
    registry = extender_registry()
    for verb in ("filter", "prioritize", "bind", "preempt", "admission"):
        assert registry.get_sample_value(f"mica_extender_{verb}_seconds_count") == 0
