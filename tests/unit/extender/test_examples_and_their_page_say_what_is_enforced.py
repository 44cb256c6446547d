"""The example pods are admitted, and the page about policies names all there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mica_api import names
from mica_api.models import VGPUPool
from mica_api.policies import CARD_POLICIES, NODE_POLICIES, check_card_policy
from mica_extender.admission.mutate import mutate
from mica_extender.admission.rules import Rules
from mica_extender.placement import Code

ROOT = Path(__file__).parents[3]
PODS = sorted((ROOT / "examples" / "slices").glob("*.yaml"))
POOLS = sorted((ROOT / "examples" / "pools").glob("*.yaml"))
PAGE = (ROOT / "docs" / "policies.md").read_text()


@pytest.mark.parametrize("path", PODS, ids=lambda path: path.name)
def test_an_example_pod_is_admitted_as_a_slice_pod(path: Path) -> None:
    admitted = mutate(yaml.safe_load(path.read_text()), Rules())
    assert names.LABEL_SLICE in {label for change in admitted.changes if "labels" in change.path for label in change.value}


@pytest.mark.parametrize("path", POOLS, ids=lambda path: path.name)
def test_an_example_pool_is_one_that_placement_understands(path: Path) -> None:
    pool = VGPUPool.model_validate(yaml.safe_load(path.read_text()))
    assert check_card_policy("placement.gpu", pool.spec.placement.gpu)


def test_the_page_names_every_policy_annotation_and_code() -> None:
    annotations = names.POD_ANNOTATIONS - {names.ANNOTATION_REQUEST, names.ANNOTATION_ORIGINAL}
    for word in (*NODE_POLICIES, *CARD_POLICIES, *annotations, *Code):
        assert f"`{word}" in PAGE, word
