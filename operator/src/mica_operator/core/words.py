"""Counts in messages, in correct English. Not a translation layer."""

from __future__ import annotations


def counted(count: int, noun: str, verb: str = "", *, of: int | None = None) -> str:
    """``1 node is``, ``2 nodes are``, ``1 of 2 engines answer``: noun and verb agree with the last number.

    ``verb`` is given in the plural.
    """
    one = (count if of is None else of) == 1
    amount = str(count) if of is None else f"{count} of {of}"
    words = [amount, noun if one else f"{noun}s"]
    if verb:
        words.append(_SINGULAR.get(verb, f"{verb}s") if one else verb)
    return " ".join(words)


_SINGULAR = {"are": "is", "have": "has"}
