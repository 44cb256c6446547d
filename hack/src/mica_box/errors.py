"""The one error a user of the box sees: what is wrong, and what to do about it."""

from __future__ import annotations


class BoxError(Exception):
    """Something outside the code is not as needed; `what` says what it is, `do` what the user can do."""

    def __init__(self, what: str, *, do: str = "run the same command again") -> None:
        super().__init__(what)
        self.what = what
        self.do = do

    def __str__(self) -> str:
        return f"{self.what}\n  what to do: {self.do}"
