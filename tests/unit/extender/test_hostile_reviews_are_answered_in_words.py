"""10,000 spoilt AdmissionReviews: each is answered, none by a failure inside, and what was admitted is admitted in one way only.

The API server decodes pods before it asks, so most of these never come; whoever can reach the port may send them all the same.
"""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from mica_extender.admission.app import AdmissionApp
from mica_extender.admission.rules import Rules
from mica_extender.metrics import Metrics

from .review_words import review_answer

REVIEWS = 10_000
FEW = 300
CORPUS = Path(__file__).parents[2] / "data" / "dialects"
PODS = [case["pod"] for path in sorted(CORPUS.glob("*.yaml")) for case in yaml.safe_load(path.read_text())]
KEYS = (
    *("metadata", "annotations", "labels", "name", "spec", "containers", "initContainers", "resources", "limits", "requests"),
    *("env", "securityContext", "capabilities", "add", "mica.dev/request", "mica.dev/vgpu-number", "mica.dev/vgpu-memory-1Gi"),
    *("nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/use-gputype", "schedulerName"),
)
PLAIN = (None, True, -1, 1.5e308, "", "\u0000x", "1e999999", "9" * 5000, 2**70, "\uffff" * 3)


def anything(draw: random.Random, depth: int = 0) -> Any:
    """A value of JSON."""
    choice = draw.randrange(len(PLAIN) + (3 if depth < 4 else 0))
    if choice < len(PLAIN):
        return PLAIN[choice]
    if choice == len(PLAIN):
        return [anything(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {draw.choice(KEYS): anything(draw, depth + 1) for _ in range(draw.randrange(4))}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every map or list inside, with each of its keys."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from places(value[key])


def spoilt(draw: random.Random) -> bytes:
    """A review of a published pod with up to three things in it that do not belong there, or cut off, or too deep."""
    pod = json.loads(json.dumps(draw.choice(PODS)))
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u", "object": pod}}
    for _ in range(draw.randrange(1, 4)):
        where, key = draw.choice(list(places(review)))
        if isinstance(where, dict) and draw.random() < 0.3:
            key = draw.choice(KEYS)
        where[key] = anything(draw)
    body = json.dumps(review).encode()
    if draw.random() < 0.1:
        return body[: draw.randrange(len(body))]
    return body.replace(b'"uid"', b'"x":' + b'{"a":[' * draw.choice((100, 1000, 100_000)), 1) if draw.random() < 0.02 else body


async def tell(count: int) -> Counter[str]:
    """How many of ``count`` reviews were allowed and refused; asserts what holds for each."""
    app = AdmissionApp(rules=Rules, metrics=Metrics(CollectorRegistry()))
    seen: Counter[str] = Counter()
    for seed in range(count):
        draw = random.Random(seed)
        stage, body = draw.choice(("mutate", "validate")), spoilt(draw)
        status, response = await review_answer(app, stage, body)
        words = "" if response["allowed"] else response["status"]["message"]
        assert status == 200, (seed, body[:500])
        assert response["allowed"] or words, (seed, body[:500])
        assert "internal error" not in words, (seed, words, body[:500])
        for change in json.loads(base64.b64decode(response.get("patch", "W10="))):
            assert change["op"] == "add"
            assert change["path"].startswith(("/metadata/", "/spec/"))
        seen["allowed" if response["allowed"] else "refused"] += 1
    return seen


async def test_a_few_spoilt_reviews_are_answered() -> None:
    assert (await tell(FEW)).total() == FEW


@pytest.mark.exhaustive
async def test_ten_thousand_spoilt_reviews_are_answered() -> None:
    seen = await tell(REVIEWS)
    assert min(seen["allowed"], seen["refused"]) > REVIEWS / 10, "both have to happen for this to mean anything"


@pytest.mark.parametrize("stage", ["mutate", "validate"])
async def test_a_variable_whose_name_is_no_text_is_left_to_the_api_server(stage: str) -> None:
    container = {"name": "main", "env": [{"name": {}}, {"name": [1]}], "resources": {"limits": {"mica.dev/vgpu-number": 1}}}
    review = {"uid": "u", "object": {"spec": {"containers": [container]}}}
    body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": review}).encode()
    _, response = await review_answer(AdmissionApp(rules=Rules, metrics=Metrics(CollectorRegistry())), stage, body)
    assert "internal error" not in json.dumps(response)
