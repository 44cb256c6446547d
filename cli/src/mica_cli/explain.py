"""Why a pod is where it is, or nowhere, as text. Pure: the pod and the extender's explanation in, lines out.

What the extender cannot know (a pod that never reached it, what kube-scheduler's own filters said) is read from the pod itself,
which the caller has read with the caller's own rights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from mica_api import names
from mica_api.dialects import DIALECTS

Body = Mapping[str, Any]
SERVICE: Final = "mica-explain"
NOTHING_EXCLUDED: Final[Mapping[str, str]] = {}


class UnreadablePod(ValueError):
    """What kubectl printed is no pod."""


def parse_pod(text: str) -> Body:
    """A pod's JSON. Raises UnreadablePod."""
    try:
        pod = json.loads(text)
        if not isinstance(pod["metadata"]["name"], str):
            raise UnreadablePod("no pod in kubectl's answer")
    except (ValueError, TypeError, KeyError) as error:
        raise UnreadablePod(f"no pod in kubectl's answer: {error!r}") from error
    return dict(pod)


def explain_path(pod: Body, *, system_namespace: str, nodes: int) -> str:
    """Path of the extender's explanation through the API server's proxy."""
    meta = pod["metadata"]
    proxy = f"/api/v1/namespaces/{system_namespace}/services/{SERVICE}/proxy"
    return f"{proxy}/explain/{meta['namespace']}/{meta['name']}?nodes={nodes}"


def reached_us(pod: Body) -> bool:
    """Whether admission has taken the pod up, so that the extender knows it."""
    return _of(pod, "metadata", "labels").get(names.LABEL_SLICE) == names.LABEL_SLICE_VALUE


def notes(pod: Body) -> list[str]:
    """What the pod alone tells about why it waits or was never ours. Empty when there is nothing to say."""
    return [*_admission_notes(pod), *_waiting_notes(pod)]


def _admission_notes(pod: Body) -> Iterator[str]:
    annotations = _of(pod, "metadata", "annotations")
    spec = _of(pod, "spec")
    asked = sorted({key for c in _containers(spec) for key in _limits(c) if any(d.owns(key) for d in DIALECTS)})
    if not asked:
        example = f"resources.limits {names.RESOURCE_NUMBER}, {names.RESOURCE_CORES}, {names.RESOURCE_MEMORY}"
        yield f"the pod asks for no GPU slice: no container has {example} or one of their aliases"
    elif names.ANNOTATION_REQUEST not in annotations:
        yield (
            f"the pod asks for {', '.join(asked)} but has no annotation {names.ANNOTATION_REQUEST}: Mica's webhook has not seen "
            "it (it is older than the installation, or its namespace is excluded); create it again"
        )
    scheduler = spec.get("schedulerName", "")
    if asked and scheduler != names.SCHEDULER_NAME:
        yield f"scheduler {scheduler!r} places the pod, not {names.SCHEDULER_NAME}"
    if gates := [str(gate.get("name")) for gate in spec.get("schedulingGates") or []]:
        yield f"the pod is held back by scheduling gates: {', '.join(gates)}"


def _waiting_notes(pod: Body) -> Iterator[str]:
    """kube-scheduler's words. On a bound pod they are stale: spec.nodeName decides."""
    if _of(pod, "spec").get("nodeName"):
        return
    conditions = _of(pod, "status").get("conditions") or []
    for said in (c for c in conditions if c.get("type") == "PodScheduled" and c.get("status") == "False"):
        message = str(said.get("message", ""))
        yield f"kube-scheduler: {said.get('reason', '')}: {message}"
        if f"Insufficient {names.GROUP}/" in message:
            yield (
                f"'Insufficient {names.GROUP}/…' is kube-scheduler's own sum over a node, which it checks before it asks Mica; "
                "why the cards do not fit is below"
            )


def told(pod: Body, explanation: Body | None, excluded: Mapping[str, str] | None = NOTHING_EXCLUDED) -> list[str]:
    """All lines for people. Without an explanation only what the pod itself tells.

    ``excluded``: nodes that the pod itself rules out, with why; None when they are not known.
    """
    ruled_out = excluded or {}
    meta = pod["metadata"]
    lines = [f"Pod {meta.get('namespace')}/{meta['name']}: {_where(pod)}", *(f"  note: {note}" for note in notes(pod))]
    if explanation is None:
        return lines
    if explanation.get("problem"):
        return [*lines, f"  its request cannot be honoured: {explanation['problem']}"]
    return [
        *lines,
        *_asks(explanation.get("request") or []),
        *_chooses(explanation.get("compute") or {}),
        *_decided(explanation.get("decision") or []),
        *_counted(explanation),
        *_excluded(explanation, excluded),
        *_ruled_out(pod, explanation),
        *_changes(explanation, ruled_out),
        *_nodes(explanation, ruled_out),
    ]


def _where(pod: Body) -> str:
    node = _of(pod, "spec").get("nodeName")
    phase = _of(pod, "status").get("phase", "")
    return f"on node {node} ({phase})" if node else f"waiting for a node ({phase})"


def _asks(request: Iterable[Body]) -> Iterator[str]:
    for wanted in request:
        cores = f"{wanted['cores']} % of the compute" if wanted["cores"] else "compute not capped"
        if wanted.get("memoryPercent"):
            memory = f"{wanted['memoryPercent']} % of the memory"
        else:
            memory = f"{wanted['memoryMiB']} MiB of memory" if wanted.get("memoryMiB") else "all the memory"
        gpus = "1 GPU" if wanted["number"] == 1 else f"{wanted['number']} GPUs"
        yield f"  container {wanted['container']} asks for {gpus}: {cores} and {memory} of each"


def _chooses(compute: Body) -> Iterator[str]:
    if compute:
        yield f"  of the compute it chooses {', '.join(f'{what} {value}' for what, value in compute.items())}"


def _decided(decision: Sequence[Body]) -> Iterator[str]:
    for share in decision:
        cores = f"{share['cores']} %" if share["cores"] else "no cap"
        index = share["container"]
        where = f"{names.ALLOCATION_PREFIX}c{index}"
        yield f"  container {index} holds {share['memoryMiB']} MiB and {cores} of {share['uuid']} (annotation {where})"


def _counted(explanation: Body) -> Iterator[str]:
    fitting, refusing = explanation.get("fitting", 0), explanation.get("refusing", 0)
    yield f"Fits on {fitting} of {fitting + refusing} GPU nodes."
    for reason in explanation.get("reasons") or []:
        never = " (however free its cards are)" if reason["permanent"] else ""
        yield f"  {_count(reason['nodes'], 'node')}: {reason['reason']}{never}"


def _ruled_out(pod: Body, explanation: Body) -> Iterator[str]:
    """Mica counts every GPU node, whatever the pod's selector and tolerations are: these it does not judge."""
    waits = not _of(pod, "spec").get("nodeName") and any(
        c.get("type") == "PodScheduled" and c.get("status") == "False" for c in _of(pod, "status").get("conditions") or []
    )
    if waits and explanation.get("fitting"):
        yield (
            "  Where it fits, kube-scheduler refuses it for other reasons than GPUs (selector, affinity, taints, CPU, memory; "
            "its words are above), or is about to try again."
        )


def _excluded(explanation: Body, excluded: Mapping[str, str] | None) -> Iterator[str]:
    """What kube-scheduler's other plugins say of the nodes that are told below; Mica counts these nodes like all others."""
    if excluded is None:
        yield "  You may not list nodes: whether selectors, affinity or taints exclude some of them is not told here."
        return
    hit = [name for name in explanation.get("nodes") or {} if name in excluded]
    if hit:
        count = _count(len(excluded), "node")
        yield f"  Excluded by the pod's own selector, affinity or tolerations, whatever is free there: {count}."


def _changes(explanation: Body, excluded: Mapping[str, str]) -> Iterator[str]:
    changes = explanation.get("changes") or []
    if changes:
        yield "It would fit with any one of these changes:"
    for change in changes:
        yield f"  {change['text']}, on node {change['node']}" + _but(excluded, change["node"])


def _but(excluded: Mapping[str, str], node: str) -> str:
    return f" (but kube-scheduler excludes it: {excluded[node]})" if node in excluded else ""


def _nodes(explanation: Body, excluded: Mapping[str, str]) -> Iterator[str]:
    for name, node in (explanation.get("nodes") or {}).items():
        if node["fits"]:
            yield f"{name}: fits, score {node['score']}" + _but(excluded, name)
            continue
        yield f"{name}: {node['reason']}" + _but(excluded, name)
        for card in node.get("cards") or []:
            yield from _card(card)
        for change in node.get("changes") or []:
            yield f"    would fit with {change['text']}"
    if explanation.get("omitted"):
        yield f"{_count(explanation['omitted'], 'more node')}; see them with --nodes"


def _card(card: Body) -> Iterator[str]:
    free, capacity = card["free"], card["capacity"]
    stock = (
        f"free {free['memoryMiB']}/{capacity['memoryMiB']} MiB, {free['cores']}/{capacity['cores']} %, "
        f"{free['slices']}/{capacity['slices']} slices"
    )
    yield f"  GPU {card['index']} {card['model']} {card['uuid']}: {stock}"
    for judged in card["containers"]:
        needs = judged["needs"]
        amounts = f"needs {needs['memoryMiB']} MiB, {needs['cores']} %"
        yield f"    {judged['container']}: {judged['code'] or 'fits'} ({amounts})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _containers(spec: Body) -> list[Body]:
    return [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]


def _limits(container: Body) -> Body:
    resources = container.get("resources") or {}
    return {**(resources.get("requests") or {}), **(resources.get("limits") or {})}


def _of(pod: Body, *path: str) -> Body:
    value: Any = pod
    for key in path:
        value = value.get(key) or {}
    return dict(value)
