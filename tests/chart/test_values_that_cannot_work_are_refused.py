from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from mica_generate.files import CHART, REPOSITORY
from mica_generate.values import Values

Template = Callable[..., Any]
Render = Callable[..., list[dict[str, Any]]]


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
        (["router.maxBufferedBytes=400000000"], "router.resources.limits.memory is 512Mi, less than the 601326592 bytes"),
        (["router.resumeTotalBytes=400000000"], "raise the limit or lower the others"),
        (["router.workers=3", "router.resumeTotalBytes=200000000"], "64 MiB for each of 4 processes"),
        (["router.resources.limits.memory=0.3G"], "router.resources.limits.memory is 0.3G, less than"),
        (["router.resources.limits.memory=512MB"], "router.resources.limits.memory is '512MB', which is no size of memory"),
        (["router.resumeTotalBytes=1048576"], "router.resumeTotalBytes must hold one longest stream per worker"),
        (["router.resumeTotalBytes=-1"], "resumeTotalBytes"),
        (
            ["router.extraEnv[0].name=MICA_RESUME_TOTAL_BYTES", "router.extraEnv[0].value=4Mi"],
            "router.extraEnv sets MICA_RESUME_TOTAL_BYTES, which router.resumeTotalBytes sets too",
        ),
        (["loglevel=debug"], "additional properties 'loglevel' not allowed"),
        (["nodeAgent.cdiDir=relative"], "cdiDir"),
    ],
)
def test_the_refusal_says_what_to_change(template: Template, settings: list[str], words: str) -> None:
    done = template(*settings)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["router.workers=3", "router.resources.limits.memory=1Gi"],
        ["router.resources.limits.memory=536870912"],
        ["router.resources.limits.memory=1.5Gi", "router.resumeTotalBytes=1000000000"],
        ["router.resumeTotalBytes=0", "router.resources.limits.memory=210M"],
        ["router.resources.limits=null", "router.resumeTotalBytes=4000000000"],
    ],
    ids=str,
)
def test_bounds_that_fit_the_memory_limit_reach_the_router(render: Render, settings: list[str]) -> None:
    [router] = [body for body in render(*settings) if body["kind"] == "Deployment" and body["metadata"]["name"] == "mica-router"]
    environment = {entry["name"]: entry.get("value") for entry in router["spec"]["template"]["spec"]["containers"][0]["env"]}
    wanted = [setting.split("=")[1] for setting in settings if setting.startswith("router.resumeTotalBytes=")]
    assert environment["MICA_RESUME_TOTAL_BYTES"] == (wanted or ["134217728"])[0]


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
