"""From a pod in any dialect to a pod in ours. Pure: a pod and the rules in, the changes out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mica_api import names
from mica_api.compute import check_allowed, check_effect, has_gpus_alone, read_compute
from mica_api.dialects import MICA, card_types, dialect_of, priority_class, translate
from mica_api.request import (
    ContainerRequest,
    InvalidRequest,
    PodRequest,
    canonical_resources,
    decode_request,
    encode_request,
    read_request,
)
from mica_api.selection import WHOLE_WORDS, canonical_selection, read_selection
from mica_extender.admission.pod import (
    Body,
    Container,
    Refusal,
    Refused,
    annotations_of,
    app_containers,
    init_containers,
    is_ours,
    labels_of,
    mapping,
    plain,
    spec_of,
)
from mica_extender.admission.rules import Rules, check_pod, is_stripped

_KNOBS: Final = {
    "CUDA_TASK_PRIORITY": names.ANNOTATION_COMPUTE_PRIORITY,
    "GPU_CORE_UTILIZATION_POLICY": names.ANNOTATION_COMPUTE_POLICY,
}
"""Variables of another limiter that a pod can say in our words."""


@dataclass(frozen=True, slots=True)
class Change:
    """One value to set, by JSON pointer."""

    path: str
    value: Any


@dataclass(frozen=True, slots=True)
class Admitted:
    """Changes that make the pod ours (none when it asks for nothing), and what its author should know."""

    changes: tuple[Change, ...] = ()
    warnings: tuple[str, ...] = ()


def mutate(pod: Body, rules: Rules) -> Admitted:
    """Changes to a submitted pod. Raises Refused with what to change. Applied to its own result it changes nothing."""
    try:
        containers = app_containers(pod)
        if not any(c.limits for c in (*containers, *init_containers(pod))):
            return Admitted()
        check_pod(pod, rules)
        annotations = annotations_of(pod)
        request = _request(containers, annotations)
        if not request.asks:
            return Admitted(tuple(c for container in containers for c in _without_slices(container)))
        compute, unneeded = _compute_class(containers, annotations, request)
        canonical = canonical_selection({**annotations, **_card_type(containers, annotations)})
        selection = read_selection({**annotations, **canonical, **compute})
        check_effect(request, selection.compute)
        check_allowed(selection.compute, rules.compute)
        doubts = rules.catalogue.doubts(request, selection)
    except InvalidRequest as error:
        raise Refused(str(error)) from error
    env, warnings = _strip_env((*containers, *init_containers(pod)))
    metadata = _metadata(pod, request, {**canonical, **compute, **_original(containers, annotations)})
    resources = [
        c for container, wanted in zip(containers, request.containers, strict=True) for c in _resources(container, wanted)
    ]
    changes = (*metadata, *_scheduler(pod), *resources, *env)
    return Admitted(changes, (*doubts, *unneeded, *warnings))


def validate(pod: Body, rules: Rules) -> None:
    """Check the final pod, after every other webhook. Raises Refused. A pod that asks for nothing passes."""
    try:
        containers = app_containers(pod)
        if not any(c.limits for c in (*containers, *init_containers(pod))):
            return
        check_pod(pod, rules)
        annotations = annotations_of(pod)
        request = read_request([(c.name, c.limits) for c in containers], annotations)
        choice = read_selection(annotations).compute
        check_effect(request, choice)
        check_allowed(choice, rules.compute)
    except InvalidRequest as error:
        raise Refused(str(error)) from error
    _check_untouched(pod, (*containers, *init_containers(pod)))


def _check_untouched(pod: Body, containers: Sequence[Container]) -> None:
    """What other webhooks have undone since. Raises Refused."""
    if spec_of(pod).get("schedulerName") != names.SCHEDULER_NAME:
        words = f"another webhook changed spec.schedulerName from {names.SCHEDULER_NAME}; exclude the pod from it"
        raise Refused(words, Refusal.OTHER_WEBHOOK)
    if labels_of(pod).get(names.LABEL_SLICE) != names.LABEL_SLICE_VALUE:
        words = f"another webhook removed the label {names.LABEL_SLICE}; exclude the pod from it"
        raise Refused(words, Refusal.OTHER_WEBHOOK)
    for container in containers:
        added = [key for key in container.limits if not MICA.owns(key)]
        added += [name for variable in container.env if is_stripped(name := str(variable.get("name", "")))]
        if added:
            raise Refused(
                f"container {container.name}: another webhook added {', '.join(added)} after Mica's; exclude the pod from it",
                Refusal.OTHER_WEBHOOK,
            )


def _request(containers: Sequence[Container], annotations: Mapping[str, str]) -> PodRequest:
    """Request of the pod. Exact MiB live in the annotation alone, so one that agrees with the resources is kept."""
    known = _annotated(annotations)
    return PodRequest(tuple(_container_request(c, known.get(c.name)) for c in containers))


def _annotated(annotations: Mapping[str, str]) -> dict[str, ContainerRequest]:
    value = annotations.get(names.ANNOTATION_REQUEST)
    return {} if value is None else {c.name: c for c in decode_request(value).containers}


def _container_request(container: Container, known: ContainerRequest | None) -> ContainerRequest:
    translated = translate(container.name, container.limits)
    if known is None or dialect_of(container.name, container.limits) not in (None, MICA):
        return translated
    stated = {key: value for key, value in container.limits.items() if value != "0"}
    if {key: str(value) for key, value in canonical_resources(known).items()} == stated:
        return known
    if known == translated:
        return translated
    raise Refused(
        f"container {container.name}: annotation {names.ANNOTATION_REQUEST} says something else than resources.limits; "
        "remove the annotation, it is made from the resources"
    )


def _card_type(containers: Sequence[Container], annotations: Mapping[str, str]) -> dict[str, str]:
    """The type of card that resources choose, as a selection of the pod. Raises Refused when there are several."""
    types = {chosen for c in containers for chosen in card_types(c.name, c.limits)}
    if not types:
        return {}
    if len(types) > 1:
        raise Refused(f"the pod's resources choose cards of several types: {', '.join(sorted(types))}; a pod can have one")
    wanted = WHOLE_WORDS + next(iter(types))
    written = canonical_selection(annotations).get(names.ANNOTATION_USE_MODEL, wanted)
    if written != wanted:
        raise Refused(f"resources choose cards of type {wanted[1:]}, annotation {names.ANNOTATION_USE_MODEL} {written}; keep one")
    return {names.ANNOTATION_USE_MODEL: wanted}


def _compute_class(
    containers: Sequence[Container], annotations: Mapping[str, str], request: PodRequest
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The class of priority that resources choose, as our annotation, and what to warn of. Raises InvalidRequest, Refused."""
    chosen = {c.name: found for c in containers if (found := priority_class(c.name, c.limits)) is not None}
    classes = sorted(set(chosen.values()))
    if not classes:
        return {}, ()
    if len(classes) > 1:
        words = ", ".join(f"{name} {found}" for name, found in chosen.items())
        raise Refused(f"the containers choose different classes of priority ({words}); a pod has one")
    written = read_compute(annotations).priority
    if written not in (None, classes[0]):
        raise Refused(
            f"resources choose priority {classes[0]}, annotation {names.ANNOTATION_COMPUTE_PRIORITY} {written}; keep one"
        )
    if has_gpus_alone(request):
        return {}, (f"priority {classes[0]} is not needed: the pod has its GPUs alone",)
    return {names.ANNOTATION_COMPUTE_PRIORITY: classes[0]}, ()


def _metadata(pod: Body, request: PodRequest, extra: Mapping[str, str]) -> list[Change]:
    annotations = annotations_of(pod)
    labels = labels_of(pod)
    wanted = {**annotations, **extra, names.ANNOTATION_REQUEST: encode_request(request)}
    labelled = {**labels, names.LABEL_SLICE: names.LABEL_SLICE_VALUE}
    changes = []
    if wanted != annotations:
        changes.append(Change("/metadata/annotations", wanted))
    if labelled != labels:
        changes.append(Change("/metadata/labels", labelled))
    return changes


def _scheduler(pod: Body) -> list[Change]:
    if spec_of(pod).get("schedulerName") == names.SCHEDULER_NAME:
        return []
    return [Change("/spec/schedulerName", names.SCHEDULER_NAME)]


def _resources(container: Container, wanted: ContainerRequest) -> list[Change]:
    """Requests equal to limits, in our names; resources of no dialect stay as they are."""
    canonical = {key: str(value) for key, value in canonical_resources(wanted).items()}
    before = mapping(container.body.get("resources"))
    after = {**before}
    for kind in ("limits", "requests"):
        others = {key: value for key, value in mapping(before.get(kind)).items() if not is_ours(key)}
        after[kind] = {**others, **canonical}
        if not after[kind]:
            del after[kind]
    return [] if _same(before, after) else [Change(f"{container.path}/resources", after)]


def _without_slices(container: Container) -> list[Change]:
    return _resources(container, ContainerRequest(container.name)) if container.limits else []


def _same(before: Body, after: Body) -> bool:
    """Equal but for the spelling of numbers and empty maps."""

    def text(resources: Body) -> dict[str, dict[str, str]]:
        maps = {kind: mapping(resources.get(kind)) for kind in ("limits", "requests")}
        return {
            kind: {key: plain(value) if is_ours(key) else str(value) for key, value in items.items()}
            for kind, items in maps.items()
        }

    return text(before) == text(after)


def _original(containers: Sequence[Container], annotations: Mapping[str, str]) -> dict[str, str]:
    """What an author wrote in another dialect, kept so that it can be read back."""
    foreign = {c.name: dict(c.limits) for c in containers if dialect_of(c.name, c.limits) not in (None, MICA)}
    if not foreign:
        return (
            {names.ANNOTATION_ORIGINAL: annotations[names.ANNOTATION_ORIGINAL]}
            if names.ANNOTATION_ORIGINAL in annotations
            else {}
        )
    return {names.ANNOTATION_ORIGINAL: json.dumps(foreign, separators=(",", ":"), sort_keys=True)}


def _strip_env(containers: Sequence[Container]) -> tuple[list[Change], tuple[str, ...]]:
    changes: list[Change] = []
    warnings: list[str] = []
    for container in containers:
        kept = [variable for variable in container.env if not is_stripped(str(variable.get("name", "")))]
        if len(kept) == len(container.env):
            continue
        gone = sorted({str(v.get("name")) for v in container.env} - {str(v.get("name")) for v in kept})
        changes.append(Change(f"{container.path}/env", kept))
        instead = "".join(f"; {name} is annotation {key} here" for name, key in _KNOBS.items() if name in gone)
        words = f"removed {', '.join(gone)}: the slice alone decides about GPUs and limits{instead}"
        warnings.append(f"container {container.name}: {words}")
    return changes, tuple(warnings)
