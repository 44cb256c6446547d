"""Which nodes and cards a pod prefers or accepts, read from its annotations in Mica's or HAMi's spelling.

Values only; how a policy turns into a choice is the extender's placement engine.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mica_api import names
from mica_api.compute import NO_CHOICE, ComputeChoice, read_compute
from mica_api.policies import CardPolicy, NodePolicy, Weights, parse_card_policy, parse_node_policy, parse_weights
from mica_api.request import InvalidRequest

WHOLE_WORDS: Final = "="
"""Before a model: its words must stand in the card's model as they are, not inside longer ones."""
MAX_VALUES: Final = 256
"""Models or UUIDs that one annotation may list: each is compared with every model or card of the cluster."""
_OF_WORDS: Final = frozenset(string.ascii_lowercase + string.digits)

_ALIASES: Final[Mapping[str, str]] = {
    "hami.io/node-scheduler-policy": names.ANNOTATION_NODE_POLICY,
    "hami.io/gpu-scheduler-policy": names.ANNOTATION_GPU_POLICY,
    "hami.io/device-scoring-weights": names.ANNOTATION_WEIGHTS,
    "nvidia.com/numa-bind": names.ANNOTATION_NUMA_BIND,
    "nvidia.com/use-gputype": names.ANNOTATION_USE_MODEL,
    "nvidia.com/nouse-gputype": names.ANNOTATION_AVOID_MODEL,
    "nvidia.com/use-gpuuuid": names.ANNOTATION_USE_UUID,
    "nvidia.com/nouse-gpuuuid": names.ANNOTATION_AVOID_UUID,
    "volcano.sh/vgpu-use-gpuuuid": names.ANNOTATION_USE_UUID,
    "volcano.sh/vgpu-nouse-gpuuuid": names.ANNOTATION_AVOID_UUID,
}
_SATISFIED: Final[Mapping[str, frozenset[str]]] = {
    "nvidia.com/vgpu-mode": frozenset({"hami-core"}),
    "volcano.sh/vgpu-mode": frozenset({"hami-core"}),
}
_BOOLEANS: Final = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_REFUSED: Final = frozenset(
    {
        "volcano.sh/vgpu-podgroup-policy",
        "huawei.com/intra-bandwidth",
        "nvidia.com/gpumem",
        "nvidia.com/gpucores",
    }
)
_COMPUTE: Final = frozenset({names.ANNOTATION_COMPUTE_POLICY, names.ANNOTATION_COMPUTE_PRIORITY, names.ANNOTATION_COMPUTE_WEIGHT})
SELECTION_ANNOTATIONS: Final = frozenset({*_ALIASES, *_ALIASES.values(), *_SATISFIED, *_REFUSED, *_COMPUTE})
"""All that ``read_selection`` looks at."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Policies (``None`` or empty: the pool's default) and card filters of a pod.

    Models match as case-insensitive substrings, with ``=`` before them as whole words (``=p4`` is no P40), UUIDs exactly; an
    empty ``use`` accepts every card. ``numa_bind`` demands that all GPUs of a container are of one NUMA node. ``compute`` accepts
    nodes of pools that allow it.
    """

    node_policy: NodePolicy | None = None
    gpu_policy: tuple[CardPolicy, ...] = ()
    use_models: frozenset[str] = frozenset()
    avoid_models: frozenset[str] = frozenset()
    use_uuids: frozenset[str] = frozenset()
    avoid_uuids: frozenset[str] = frozenset()
    weights: Weights | None = None
    numa_bind: bool = False
    compute: ComputeChoice = NO_CHOICE

    def accepts_model(self, model: str) -> bool:
        """Whether a card of this model may be used."""
        if not self.use_models and not self.avoid_models:
            return True
        lowered = model.lower()
        wanted = not self.use_models or any(_names(part, lowered) for part in self.use_models)
        return wanted and not any(_names(part, lowered) for part in self.avoid_models)

    def accepts_uuid(self, uuid: str) -> bool:
        """Whether the card with this UUID may be used."""
        return (not self.use_uuids or uuid in self.use_uuids) and uuid not in self.avoid_uuids


def read_selection(annotations: Mapping[str, str]) -> Selection:
    """Selection of a pod from its annotations. Raises InvalidRequest for a value or key that cannot be honoured."""
    canonical = canonical_selection(annotations)
    node_policy = canonical.get(names.ANNOTATION_NODE_POLICY)
    gpu_policy = canonical.get(names.ANNOTATION_GPU_POLICY)
    weights = canonical.get(names.ANNOTATION_WEIGHTS)
    return Selection(
        node_policy=None if node_policy is None else parse_node_policy(_where(names.ANNOTATION_NODE_POLICY), node_policy),
        gpu_policy=() if gpu_policy is None else parse_card_policy(_where(names.ANNOTATION_GPU_POLICY), gpu_policy),
        use_models=frozenset(s.lower() for s in _values(canonical, names.ANNOTATION_USE_MODEL)),
        avoid_models=frozenset(s.lower() for s in _values(canonical, names.ANNOTATION_AVOID_MODEL)),
        use_uuids=_values(canonical, names.ANNOTATION_USE_UUID),
        avoid_uuids=_values(canonical, names.ANNOTATION_AVOID_UUID),
        weights=None if weights is None else parse_weights(_where(names.ANNOTATION_WEIGHTS), weights),
        numa_bind=_boolean(canonical, names.ANNOTATION_NUMA_BIND),
        compute=read_compute(annotations),
    )


def canonical_selection(annotations: Mapping[str, str]) -> dict[str, str]:
    """The selection annotations under their Mica names. Raises InvalidRequest when two spellings of one disagree."""
    for key in sorted(annotations.keys() & _REFUSED):
        raise InvalidRequest(f"annotation {key} is not enforced by Mica; remove it (amounts belong in resources.limits)")
    for key, accepted in _SATISFIED.items():
        if key in annotations and annotations[key].strip().lower() not in accepted:
            raise InvalidRequest(f"annotation {key}: {annotations[key]!r} is not supported; only {sorted(accepted)}")
    found: dict[str, str] = {}
    for key, value in annotations.items():
        name = _ALIASES.get(key, key)
        if (name != key or name in _ALIASES.values()) and found.setdefault(name, value) != value:
            raise InvalidRequest(f"annotation {name} is written twice with different values; keep one")
    return found


def _names(part: str, model: str) -> bool:
    if not part.startswith(WHOLE_WORDS):
        return part in model
    words = part.removeprefix(WHOLE_WORDS)
    at = model.find(words)
    while at >= 0:
        end = at + len(words)
        if model[max(at - 1, 0) : at] not in _OF_WORDS and model[end : end + 1] not in _OF_WORDS:
            return True
        at = model.find(words, at + 1)
    return False


def _where(key: str) -> str:
    return f"annotation {key}"


def _boolean(annotations: Mapping[str, str], key: str) -> bool:
    value = annotations.get(key, "false")
    known = _BOOLEANS.get(value.strip().lower())
    if known is None:
        raise InvalidRequest(f"annotation {key} is {value!r}; it must be true or false")
    return known


def _values(annotations: Mapping[str, str], key: str) -> frozenset[str]:
    if key not in annotations:
        return frozenset()
    values = frozenset(part.strip() for part in annotations[key].split(",") if part.strip())
    if not values:
        raise InvalidRequest(f"annotation {key} is empty; list at least one value or remove it")
    if len(values) > MAX_VALUES:
        raise InvalidRequest(f"annotation {key} lists {len(values)} values; list at most {MAX_VALUES}")
    return values
