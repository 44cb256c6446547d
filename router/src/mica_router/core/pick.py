"""Which engine takes a request: least in flight, ties in turn.

Pure: what is in flight, what was tried and what is suspect come in as values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mica_router.core.engines import Endpoint


def pick_endpoint(
    endpoints: Sequence[Endpoint],
    *,
    in_flight: Mapping[Endpoint, int],
    turn: int,
    tried: Collection[Endpoint] = (),
    suspects: Collection[Endpoint] = (),
) -> Endpoint | None:
    """The endpoint with the least in flight that was not tried; None when all were.

    `turn` rises with every request of the service and decides between equals. A suspect (its last connection attempt failed
    a moment ago) is taken only when nothing else is left.
    """
    left = [endpoint for endpoint in endpoints if endpoint not in tried]
    if len(left) < 2:
        return left[0] if left else None
    sound = [endpoint for endpoint in left if endpoint not in suspects] or left
    least = min(in_flight.get(endpoint, 0) for endpoint in sound)
    equals = [endpoint for endpoint in sound if in_flight.get(endpoint, 0) == least]
    return equals[turn % len(equals)]
