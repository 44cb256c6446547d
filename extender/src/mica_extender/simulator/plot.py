"""Allocation against arrivals as an SVG picture. Text in, text out: no drawing library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from mica_extender.simulator.model import Result

_WIDTH: Final = 860
_HEIGHT: Final = 480
_LEFT: Final = 64
_RIGHT: Final = 190
_TOP: Final = 40
_BOTTOM: Final = 56
_COLOURS: Final = ("#0b6e4f", "#c1121f", "#1d4e89", "#e08e1b", "#6a4c93", "#4d4d4d", "#2a9d8f")
_POINTS: Final = 400


def plot(results: Sequence[Result], title: str) -> str:
    """One line per policy, the mean over its seeds: x is what has arrived, y what is allocated, both in percent of all GPUs."""
    policies = list(dict.fromkeys(result.policy for result in results))
    most = max((100 * one.arrived[-1] / one.capacity for one in results if one.arrived), default=100.0)
    right = max(most, 1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
        *_axes(right),
    ]
    for number, policy in enumerate(policies):
        mine = [one for one in results if one.policy == policy]
        colour = _COLOURS[number % len(_COLOURS)]
        loads = [right * at / _POINTS for at in range(_POINTS + 1)]
        means = _means(mine, loads)
        points = " ".join(f"{_x(load, right):.1f},{_y(mean):.1f}" for load, mean in zip(loads, means, strict=True))
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{points}"/>')
        y = _TOP + 14 + 20 * number
        parts.append(f'<rect x="{_WIDTH - _RIGHT + 16}" y="{y - 9}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 36}" y="{y - 3}">{escape(policy)} {means[-1]:.2f} %</text>')
    return "\n".join([*parts, "</svg>", ""])


def _axes(right: float) -> list[str]:
    parts = []
    for percent in range(0, 101, 20):
        y = _y(percent)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>')
    step = 20 if right > 40 else 5
    for percent in range(0, int(right) + 1, step):
        x = _x(percent, right)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(0):.1f}" y2="{_y(0) + 5:.1f}" stroke="#888"/>')
        parts.append(f'<text x="{x:.1f}" y="{_y(0) + 20:.1f}" text-anchor="middle">{percent}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) // 2
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 12}">arrived, % of all GPUs</text>')
    parts.append(f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">allocated, % of all GPUs</text>')
    return parts


def _means(results: Sequence[Result], loads: Sequence[float]) -> list[float]:
    sums = [0.0] * len(loads)
    for result in results:
        at, done = 0, 0
        for number, load in enumerate(loads):
            while at < len(result.arrived) and result.arrived[at] * 100 <= load * result.capacity:
                done = result.allocated[at]
                at += 1
            sums[number] += 100 * done / result.capacity
    return [value / len(results) for value in sums]


def _x(percent: float, right: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * percent / right


def _y(percent: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * percent / 100
