"""How many bytes of requests the process holds. Every client connection accounts for its own and refuses what is too much."""

from __future__ import annotations


class Budget:
    """`held` counts requests that are being read, that wait, and that could still have to be sent again."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @property
    def exceeded(self) -> bool:
        """Whether requests have to be refused until others are done."""
        return self.held > self.limit
