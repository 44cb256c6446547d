"""Every series is there from the start, and the page that lists them is the truth."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from mica_extender.metrics import INVALID_REQUEST, Metrics
from mica_extender.placement import Code
from mica_extender.state.ledger import Ledger

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
BEGIN, END = "<!-- extender: begin -->", "<!-- extender: end -->"


def extender_registry() -> CollectorRegistry:
    metrics = Metrics(CollectorRegistry())
    metrics.watch_ledger(Ledger())
    return metrics.registry


def table(registry: CollectorRegistry) -> list[str]:
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in sorted(registry.collect(), key=lambda one: one.name):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label: [] for sample in family.samples for label in sample.labels if label != "le"}
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label != "le" and value not in labels[label]:
                    labels[label].append(value)
        shown = "; ".join(f"`{label}`: {', '.join(values)}" for label, values in labels.items())
        rows.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |")
    return rows


def test_the_page_lists_exactly_what_the_extender_exports() -> None:
    _, _, rest = PAGE.read_text().partition(BEGIN)
    listed = rest.partition(END)[0].strip().splitlines()
    assert listed == table(extender_registry())


def test_every_refusal_reason_is_counted_from_zero() -> None:
    registry = extender_registry()
    for code in (*Code, INVALID_REQUEST):
        assert registry.get_sample_value("mica_extender_refusals_total", {"code": str(code)}) == 0


def test_every_verb_and_the_webhook_have_a_histogram() -> None:
    registry = extender_registry()
    for verb in ("filter", "prioritize", "bind", "preempt", "admission"):
        assert registry.get_sample_value(f"mica_extender_{verb}_seconds_count") == 0
