"""Which GPUs of the node are cordoned, read from the Node's annotations in Mica's or HAMi's spelling. Pure.

A cordon keeps new decisions away from a card. It takes nothing back: slices that are there stay, and a decision that was made
before the cordon is carried out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mica_api import names

KEYS: Final = (names.ANNOTATION_CORDONED, "hami.io/device-cordon")
"""Comma lists of UUIDs; what any of them names is cordoned."""


def read_cordon(annotations: Mapping[str, str]) -> frozenset[str]:
    """UUIDs as written, whether the node has such cards or not."""
    parts = (part.strip() for key in KEYS for part in annotations.get(key, "").split(","))
    return frozenset(part for part in parts if part)


def cordon_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations that matter here; the others of a Node are many and change often."""
    return {key: annotations[key] for key in KEYS if key in annotations}
