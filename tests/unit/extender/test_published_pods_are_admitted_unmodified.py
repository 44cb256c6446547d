"""The shapes of pods that HAMi, Volcano vGPU and Flex:ai publish: what each of them means to us, or why it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mica_api import names
from mica_extender.admission.mutate import mutate, validate
from mica_extender.admission.pod import Refused
from mica_extender.admission.rules import Rules

CORPUS = Path(__file__).parents[2] / "data" / "dialects"
SYSTEMS = ("hami", "volcano", "flexai")
FIELDS = {"number": "number", "cores": "cores", "mem": "mem", "percent": "memPercent"}


def _load(system: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = yaml.safe_load((CORPUS / f"{system}.yaml").read_text())
    return cases


CASES = [pytest.param(case, id=f"{system}: {case['shape']}") for system in SYSTEMS for case in _load(system)]


def _applied(pod: dict[str, Any], changes: Any) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(pod))
    result.setdefault("metadata", {})
    for change in changes:
        *parents, last = change.path.strip("/").split("/")
        target: Any = result
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target[part]
        target[int(last) if isinstance(target, list) else last] = change.value
    return result


@pytest.mark.parametrize("case", CASES)
def test_a_published_shape_means_what_its_users_mean_or_is_refused_in_words(case: dict[str, Any]) -> None:
    if "refused" in case:
        with pytest.raises(Refused) as refusal:
            mutate(case["pod"], Rules())
        assert case["refused"] in str(refusal.value)
        return
    admitted = mutate(case["pod"], Rules())
    pod = _applied(case["pod"], admitted.changes)
    validate(pod, Rules())
    written = json.loads(pod["metadata"]["annotations"][names.ANNOTATION_REQUEST])["containers"]
    expected = [
        {"name": name, **{ours: wanted.get(theirs, 0) for theirs, ours in FIELDS.items()}}
        for name, wanted in case["expect"].items()
    ]
    assert written == expected
    assert case.get("annotations", {}).items() <= pod["metadata"]["annotations"].items()
    assert pod["spec"]["schedulerName"] == names.SCHEDULER_NAME
    assert case.get("warns", "") in " ".join(admitted.warnings)
    assert names.ANNOTATION_ORIGINAL in pod["metadata"]["annotations"]


def test_the_corpus_is_large_enough_to_mean_something() -> None:
    admitted = [case for system in SYSTEMS for case in _load(system) if "expect" in case]
    assert len(admitted) >= 35
    assert len({case["shape"] for system in SYSTEMS for case in _load(system)}) >= 50
