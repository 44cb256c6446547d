"""How fast a tier is, learned from what it did: seconds of a prompt by its length, seconds per token by how many requests run.

Both are straight lines. A batch reads the weights once and the cache of every sequence, so the time of one decoding step is
`a + b * sequences` (the linear model of continuous batching: Agrawal et al., Sarathi-Serve, OSDI 2024, section 3); reading a
prompt is `c + d * tokens` below the quadratic part of attention. The lines are fitted by least squares with exponential
forgetting, so a tier that changes (another model, a warmer card) is forgotten after a few hundred observations. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_KEEP: Final = 0.99
_SPREAD: Final = 1e-3


@dataclass(slots=True)
class Line:
    """`y = a + b * x` with a, b >= 0, fitted to the latest observations. Without spread in x it is flat, or proportional."""

    proportional: bool = False
    _n: float = 0.0
    _x: float = 0.0
    _y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0

    def add(self, x: float, y: float, *, weight: float = 1.0) -> None:
        """One observation; `weight` says how many of the same it stands for."""
        if not (x >= 0 and 0 <= y < 1e6 and weight > 0):
            return
        keep = _KEEP
        self._n = self._n * keep + weight
        self._x = self._x * keep + weight * x
        self._y = self._y * keep + weight * y
        self._xx = self._xx * keep + weight * x * x
        self._xy = self._xy * keep + weight * x * y

    def at(self, x: float) -> float | None:
        """Expected y, or None when nothing was observed."""
        if self._n <= 0:
            return None
        intercept, slope = self._fit()
        return intercept + slope * x

    def _fit(self) -> tuple[float, float]:
        mean_x, mean_y = self._x / self._n, self._y / self._n
        variance = self._xx / self._n - mean_x * mean_x
        ratio = (0.0, mean_y / mean_x) if mean_x > 0 else (mean_y, 0.0)
        if variance <= _SPREAD * max(mean_x * mean_x, 1.0):
            return ratio if self.proportional else (mean_y, 0.0)
        slope = (self._xy / self._n - mean_x * mean_y) / variance
        if slope <= 0:
            return mean_y, 0.0
        intercept = mean_y - slope * mean_x
        return (intercept, slope) if intercept >= 0 else ratio


@dataclass(slots=True)
class Rates:
    """What was learned of one tier. Times in seconds, concurrency in requests per engine."""

    prefill: Line = field(default_factory=lambda: Line(proportional=True))
    decode: Line = field(default_factory=Line)
    output: Line = field(default_factory=Line)

    def saw_prompt(self, *, tokens: float, seconds: float, weight: float = 1.0) -> None:
        """A prompt of `tokens` was read in `seconds`, without waiting before it."""
        self.prefill.add(tokens, seconds, weight=weight)

    def saw_tokens(self, *, concurrency: float, seconds_per_token: float, weight: float = 1.0) -> None:
        """Requests got a token every `seconds_per_token` while `concurrency` of them ran on the engine."""
        self.decode.add(concurrency, seconds_per_token, weight=weight)

    def saw_answer(self, *, tokens: float, weight: float = 1.0) -> None:
        """An answer was `tokens` long."""
        self.output.add(0.0, tokens, weight=weight)

    def service_time(self, *, prompt: int, output: int, concurrency: float) -> float | None:
        """Seconds that an engine works on a request beside others; None as long as that is not known."""
        reading, step = self.prefill.at(prompt), self.decode.at(concurrency)
        if step is None and output > 0:
            return None
        if reading is None and step is None:
            return None
        return (reading or 0.0) + output * (step or 0.0)

    def expected_output(self, limit: int | None) -> int:
        """Tokens of an answer: what was usual, never more than `limit`."""
        usual = self.output.at(0.0)
        expected = _USUAL_OUTPUT if usual is None else round(usual)
        return expected if limit is None else min(expected, limit)


_USUAL_OUTPUT: Final = 200
"""Tokens of an answer before any was seen."""
