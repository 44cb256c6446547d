"""Which pool a node belongs to. One rule for the node agent and, for nodes that do not exist yet, the extender.

Everybody else reads ``VGPUNode.spec.pool``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mica_api import names
from mica_api.models.vgpu_pool import VGPUPool


def resolve_pool(node_labels: Mapping[str, str], pools: Iterable[VGPUPool]) -> VGPUPool | None:
    """The pool whose selector matches: the most specific one, then the oldest, then by name; ``default`` comes last.

    None when no pool selects the node.
    """
    matching = [p for p in pools if p.metadata.deletion_timestamp is None and _matches(p, node_labels)]
    return min(matching, key=_rank, default=None)


def _matches(pool: VGPUPool, labels: Mapping[str, str]) -> bool:
    wanted = pool.spec.node_selector.match_labels or {}
    return all(labels.get(key) == value for key, value in wanted.items())


def _rank(pool: VGPUPool) -> tuple[bool, int, str, str]:
    meta = pool.metadata
    selector = pool.spec.node_selector.match_labels or {}
    return (meta.name == names.DEFAULT_POOL, -len(selector), meta.creation_timestamp, meta.name)
