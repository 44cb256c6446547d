"""Counters of the data path as plain integers. How they are shown is in `exposition`.

A counter object per event would cost more than the relay itself. One event loop owns the numbers, so there are no locks; several
workers' numbers are added when somebody asks.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from mica_router.hot import Histogram

TTFB_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
GAP_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 5.0)
NO_MODEL: Final = ""


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """What is asked of a model right now.

    `queued`: accepted and not yet handed to an engine. `oldest_wait`: seconds that the first of those who are held waits.
    """

    in_flight: int
    queued: int
    oldest_wait: float = 0.0

    def plus(self, other: ModelDemand) -> ModelDemand:
        """The demand at two workers."""
        return ModelDemand(self.in_flight + other.in_flight, self.queued + other.queued, max(self.oldest_wait, other.oldest_wait))


class Series:
    """What is timed per model and tier: the wait for an engine, the first event of a stream, and the gaps between its reads."""

    __slots__ = ("first_token", "gap", "queue")

    def __init__(self) -> None:
        self.queue = Histogram(TTFB_BUCKETS)
        self.first_token = Histogram(TTFB_BUCKETS)
        self.gap = Histogram(GAP_BUCKETS)


class RouterMetrics:
    """Written by the relay. Models appear under the public names that they are served by."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        self.upstream_errors: dict[tuple[str, str], int] = {}
        self.retries: dict[tuple[str, str], int] = {}
        self.decisions: dict[tuple[str, str, str], int] = {}
        self.holds: dict[tuple[str, str], int] = {}
        self.resumes: dict[str, int] = {}
        self.resume_refusals: dict[tuple[str, str], int] = {}
        self.ttfb: dict[str, Histogram] = {}
        self.timings: dict[tuple[str, str], Series] = {}

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

    def decided(self, model: str, tier: str, reason: str) -> None:
        """Count one choice of an engine."""
        key = (model, tier, reason)
        self.decisions[key] = self.decisions.get(key, 0) + 1

    def held(self, model: str, reason: str) -> None:
        """Count one request that had to wait for an engine."""
        key = (model, reason)
        self.holds[key] = self.holds.get(key, 0) + 1

    def resumed(self, model: str) -> None:
        """Count one stream that went on at another engine."""
        self.resumes[model] = self.resumes.get(model, 0) + 1

    def not_resumed(self, model: str, reason: str) -> None:
        """Count one stream that broke and could not go on."""
        key = (model, reason)
        self.resume_refusals[key] = self.resume_refusals.get(key, 0) + 1

    def first_byte(self, model: str, seconds: float) -> None:
        """Record one time to first byte."""
        histogram = self.ttfb.get(model)
        if histogram is None:
            histogram = self.ttfb[model] = Histogram(TTFB_BUCKETS)
        histogram.observe(seconds)

    def series(self, model: str, tier: str) -> Series:
        """The timings of this model at this tier."""
        key = (model, tier)
        series = self.timings.get(key)
        if series is None:
            series = self.timings[key] = Series()
        return series

    def keep_only(self, models: Set[str]) -> None:
        """Forget models that are no longer served; a request that is still under way brings its model back for a while."""
        kept = models | {NO_MODEL}
        for name in _BY_MODEL_FIRST:
            counts = getattr(self, name)
            setattr(self, name, {key: value for key, value in counts.items() if key[0] in kept})
        self.resumes = {model: count for model, count in self.resumes.items() if model in kept}
        self.ttfb = {model: histogram for model, histogram in self.ttfb.items() if model in kept}


_BY_MODEL_FIRST: Final = ("requests", "upstream_errors", "retries", "decisions", "holds", "resume_refusals", "timings")
