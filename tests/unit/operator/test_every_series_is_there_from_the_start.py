"""A counter that appears with its first event hides that event from whoever asks for its rate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from mica_api.models.inference_service import InferenceService
from mica_operator.core.decide import decide
from mica_operator.core.views import Observed
from mica_operator.metrics import Metrics


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Metrics(registry)
    return registry


@pytest.mark.parametrize("kind", ["InferenceService", "VGPUPool"])
@pytest.mark.parametrize("outcome", ["done", "api_error", "bug"])
def test_looks_are_counted_from_zero(registry: CollectorRegistry, kind: str, outcome: str) -> None:
    assert registry.get_sample_value("mica_operator_reconciles_total", {"kind": kind, "outcome": outcome}) == 0
    assert registry.get_sample_value("mica_operator_reconcile_seconds_count", {"kind": kind}) == 0


def test_whatever_a_service_is_made_of_is_counted_from_zero(
    registry: CollectorRegistry, service: Callable[..., InferenceService]
) -> None:
    kinds = {body["kind"] for body in decide(Observed(service=service()), {"llamacpp": "i"}).apply}
    assert kinds
    for kind in kinds:
        assert registry.get_sample_value("mica_operator_writes_total", {"kind": kind}) == 0
