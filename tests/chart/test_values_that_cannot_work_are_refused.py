from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from mica_generate.files import CHART, REPOSITORY
from mica_generate.values import Values

Template = Callable[..., Any]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["scheduler.image="], "scheduler.image is empty; set it to a kube-scheduler image"),
        (["simulatedGPUs.config=version=1"], "simulatedGPUs.config is set but simulatedGPUs.enabled is false"),
        (["operator.replicas=2"], "additional properties 'replicas' not allowed"),
        (["image.pullPolicy=Sometimes"], "pullPolicy"),
        (["router.service.port=0"], "port"),
        (["scheduler.replicas=0"], "replicas"),
        (["scheduler.percentageOfNodesToScore=101"], "percentageOfNodesToScore"),
        (["router.workers=0"], "workers"),
        (["router.workers=8"], "router.maxBufferedBytes must hold one largest request per worker"),
        (["loglevel=debug"], "additional properties 'loglevel' not allowed"),
        (["nodeAgent.cdiDir=relative"], "cdiDir"),
    ],
)
def test_the_refusal_says_what_to_change(template: Template, settings: list[str], words: str) -> None:
    done = template(*settings)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize("namespace", ["default", "kube-system"])
def test_a_shared_namespace_is_refused(template: Template, namespace: str) -> None:
    done = template(namespace=namespace)
    assert done.returncode != 0
    assert "install into a namespace of its own" in done.stderr


def test_the_defaults_are_complete_and_fit_the_schema() -> None:
    text = (REPOSITORY / CHART / "values.yaml").read_text()
    values = Values.model_validate(yaml.safe_load(text))
    assert values.scheduler.image == ""


def test_every_value_is_used_by_a_template() -> None:
    templates = "".join(path.read_text() for path in (REPOSITORY / CHART / "templates").glob("*") if path.is_file())
    for leaf in _leaves(yaml.safe_load((REPOSITORY / CHART / "values.yaml").read_text())):
        name = leaf.rsplit(".", 1)[-1]
        # Engine types are ranged over.
        assert re.search(rf"\.{name}\b", templates) or leaf.startswith("engines."), leaf


def _leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in values.items():
        nested = isinstance(value, dict) and value and key not in ("resources", "schedulerResources", "arbiterResources")
        found += _leaves(value, f"{prefix}{key}.") if nested else [f"{prefix}{key}"]
    return found
