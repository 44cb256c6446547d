"""Reader of a cluster snapshot: what ``kubectl get -o json`` (or ``-o yaml``) gives of VGPUNodes, VGPUPools and pods.

Any number of files, each a list, an object or several YAML documents. The nodes' CPU is what their VGPUNodes report; memory of
the nodes is not in these objects and is not enforced. Objects of other kinds are counted and left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

from mica_api import names
from mica_extender.placement.dream import LEVELS
from mica_extender.placement.mix import CardKind
from mica_extender.placement.model import Card, NodeState
from mica_extender.simulator.model import BadInput, Job, Machine, Scenario
from mica_extender.simulator.text import read_text
from mica_extender.state.records import NodeRecord, PodRecord, PoolRecord, decode_node, decode_pod, decode_pool

_USED: Final = frozenset({"VGPUNode", "VGPUPool", "Pod"})
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_DIGITS: Final = 19
"""Of a whole number that 64 bits hold."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was read. ``others`` are objects that are not used, by kind."""

    machines: tuple[Machine, ...]
    running: tuple[tuple[Job, PodRecord], ...]
    waiting: tuple[Job, ...]
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def gpu_milli(self) -> int:
        """Capacity in thousandths of a GPU."""
        return LEVELS * sum(len(machine.state.cards) for machine in self.machines)

    def anew(self) -> Scenario:
        """All pods come again, oldest first, to empty nodes."""
        return Scenario(self.machines, (*(job for job, _ in self.running), *self.waiting), self.gpu_milli)

    def as_it_is(self) -> Scenario:
        """Running pods stay where they are, the waiting ones come."""
        held: dict[str, list[PodRecord]] = {}
        for _, pod in self.running:
            held.setdefault(pod.node, []).append(pod)
        machines = tuple(_holding(machine, held.get(machine.state.name, ())) for machine in self.machines)
        return Scenario(machines, self.waiting, self.gpu_milli)


@dataclass(frozen=True, slots=True)
class _Item:
    """One object of a file, and where it stands: which document, and which of its items or -1."""

    path: Path
    document: int
    position: int
    value: dict[str, Any]

    def bad(self, problem: str, path: str = "$") -> BadInput:
        what = f" ({self.value['kind']} {self.metadata.get('name')})" if "kind" in self.value else ""
        words = f"{self.path}{_place(self, path)}{what}: {problem}"
        return BadInput(words.encode(errors="backslashreplace").decode())

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The object's metadata; empty when there is none that could be meant."""
        found = self.value.get("metadata")
        return found if isinstance(found, dict) else {}

    @property
    def slice_pod(self) -> bool:
        """Whether it carries the label of pods that were admitted."""
        labels = self.metadata.get("labels")
        return isinstance(labels, dict) and labels.get(names.LABEL_SLICE) == names.LABEL_SLICE_VALUE


def read_snapshot(paths: Sequence[Path]) -> Snapshot:
    """Nodes and pods of all files. Raises BadInput."""
    items = [item for path in paths for item in _items(path)]
    nodes = _decode(items, "VGPUNode", decode_node)
    pools = _decode(items, "VGPUPool", decode_pool)
    if not nodes:
        raise BadInput(f"{', '.join(map(str, paths))}: no VGPUNode in it; add what `kubectl get vgpunodes -o json` gives")
    _refuse_twice((item, pool.name) for item, pool in pools)
    _refuse_twice((item, node.name) for item, node in nodes)
    _refuse_twice(((item, card.uuid) for item, node in nodes for card in node.cards), "GPU {} is", "$.spec.gpus")
    by_name = {pool.name: pool for _, pool in pools}
    machines = tuple(_machine(node, by_name.get(node.pool)) for _, node in nodes)
    kind = _usual_kind(machines)
    running, waiting = [], []
    pods = sorted(_decode(items, "Pod", decode_pod), key=lambda pair: _created(pair[0]))
    _refuse_twice((item, f"{pod.namespace}/{pod.name}") for item, pod in pods)
    known = {machine.state.name for machine in machines}
    for item, pod in pods:
        if pod.terminal or (pod.shape is None and not pod.problem):
            continue
        if pod.shape is None:
            if item.slice_pod:
                raise item.bad(pod.problem)
            continue
        if not pod.shape.request.asks:
            continue
        milli = sum(one.number * min(LEVELS, kind.share(one)) for one in pod.shape.request.containers if one.asks)
        job = Job(f"{pod.namespace}/{pod.name}", pod.shape, milli)
        if not pod.node:
            waiting.append(job)
        elif pod.node in known:
            running.append((job, pod))
        else:
            raise item.bad(f"it runs on node {pod.node}, whose VGPUNode is not in the snapshot", "$.spec.nodeName")
    others = Counter(str(item.value.get("kind")) for item in items if item.value.get("kind") not in _USED)
    return Snapshot(machines, tuple(running), tuple(waiting), dict(others))


def _items(path: Path) -> Iterable[_Item]:
    text = read_text(path)
    try:
        documents = [_json(text)] if text.lstrip()[:1] in ("{", "[") else list(yaml.load_all(text, _LOADER))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}, line {error.lineno}, column {error.colno}: it is not JSON: {error.msg}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadInput(f"{path}{place}: it is not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: it is not YAML: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: it cannot be read: {error}") from error
    for number, document in enumerate(documents):
        if document is None:
            continue
        single = isinstance(document, dict) and "items" not in document
        values = [document] if single else document["items"] if isinstance(document, dict) else document
        if not isinstance(values, list):
            raise _Item(path, number, -1, {}).bad("it is neither an object nor a list of objects")
        for at, value in enumerate(values):
            item = _Item(path, number, -1 if single else at, value if isinstance(value, dict) else {})
            if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
                raise item.bad("it is no Kubernetes object: it has no kind")
            yield item


def _json(text: str) -> Any:
    """The document. A number that no field can hold becomes infinite, and is then refused with the place of its object."""
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= _DIGITS + 1 else float(digits))


def _decode(items: Iterable[_Item], kind: str, decode: Callable[[bytes], T]) -> list[tuple[_Item, T]]:
    found = []
    for item in items:
        if item.value["kind"] != kind:
            continue
        try:
            found.append((item, decode(json.dumps(item.value, default=str, allow_nan=False).encode())))
        except (TypeError, RecursionError) as error:
            raise item.bad(f"it is no JSON object: {error}") from error
        except msgspec.DecodeError as error:
            words = str(error)
            at = re.search(r" - at `(.*?)`", words)
            raise item.bad(words.split(" - at ")[0], at[1] if at else "$") from error
        except ValueError as error:
            raise item.bad(f"it is no JSON object: {error}") from error
    return found


def _place(item: _Item, path: str) -> str:
    """Line and column of what ``path`` names in the item, or of the nearest thing around it that is there.

    JSON is YAML but for a few characters; where it is not, the object's name has to do.
    """
    try:
        documents = yaml.compose_all(_SURROGATE.sub(r"\\u003f", read_text(item.path)), _LOADER)
        node = next(found for number, found in enumerate(documents) if number == item.document)
    except (yaml.YAMLError, RecursionError):
        return ""
    steps: list[str | int] = [] if item.position < 0 else ["items", item.position]
    if isinstance(node, yaml.SequenceNode):
        steps = steps[1:]
    steps += [name or int(index) for name, index in _STEP.findall(path)]
    for step in steps:
        if isinstance(node, yaml.MappingNode):
            found = next((value for key, value in node.value if key.value == step), None)
        else:
            inside = isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value)
            found = node.value[step] if inside else None
        if found is None:
            break
        node = found
    return f", line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"


def _refuse_twice(named: Iterable[tuple[_Item, str]], what: str = "it is", path: str = "$.metadata.name") -> None:
    seen: set[str] = set()
    for item, name in named:
        if name in seen:
            raise item.bad(f"{what.format(name)} in the snapshot twice", path)
        seen.add(name)


def _created(item: _Item) -> str:
    return str(item.metadata.get("creationTimestamp") or "")


def _machine(node: NodeRecord, pool: PoolRecord | None) -> Machine:
    total, others = node.cpu or (-1, 0)
    left = max(0, total - others) if total >= 0 else -1
    state = NodeState(node.name, node.max_slices, node.cards, ready=node.ready, cpu_total=total, cpu_left=left)
    if pool is not None:
        state = replace(
            state, node_policy=pool.node_policy, gpu_policy=pool.gpu_policy, weights=pool.weights, compute=pool.compute
        )
    else:
        state = replace(state, node_policy="fragmentation", gpu_policy=("fragmentation",))
    return Machine(state, total)


def _usual_kind(machines: Sequence[Machine]) -> CardKind:
    cards = [card for machine in machines for card in machine.state.cards]
    if not cards:
        raise BadInput("no VGPUNode of the snapshot has a GPU")
    (memory, capacity, cores), _ = Counter((c.memory_mib, c.total_mib, c.core_capacity) for c in cards).most_common(1)[0]
    return CardKind(memory, capacity, cores)


def _holding(machine: Machine, pods: Iterable[PodRecord]) -> Machine:
    cards: dict[str, Card] = {card.uuid: card for card in machine.state.cards}
    cpu = machine.state.cpu_left
    for pod in pods:
        cpu = max(0, cpu - pod.cpu_milli) if cpu >= 0 else cpu
        for share in (share for shares in pod.shares or () for share in shares):
            if share.uuid in cards:
                cards[share.uuid] = cards[share.uuid].with_slice(memory_mib=share.memory_mib, cores=share.cores)
    return replace(machine, state=replace(machine.state, cards=tuple(cards.values()), cpu_left=cpu))
