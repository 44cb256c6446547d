"""Durations as people write them in objects: 500ms, 2s, 1m30s, 2h."""

from __future__ import annotations

import re
from typing import Final

DURATION_PATTERN: Final = r"^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?([0-9]{1,6}ms)?$"
_UNITS: Final = (3600.0, 60.0, 1.0, 0.001)
_PATTERN: Final = re.compile(DURATION_PATTERN)


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError."""
    match = _PATTERN.match(text)
    if match is None or not text:
        raise ValueError(f"{text!r} is no duration: write 500ms, 2s, 1m30s or 2h")
    return sum(int(part.rstrip("hms")) * unit for part, unit in zip(match.groups(), _UNITS, strict=True) if part)
