from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest
from yamllint import linter
from yamllint.config import YamlLintConfig

from mica_generate.files import CHART, REPOSITORY

Body = dict[str, Any]
KUBERNETES = "1.36"


def test_every_object_fits_the_schema_of_its_kind(rendered: list[Body]) -> None:
    for body in rendered:
        if body["kind"] == "CustomResourceDefinition":
            continue  # its schema field is recursive, which the validator's schemas leave out; the API server judges it elsewhere
        kubernetes_validate.validate(body, KUBERNETES, strict=True)


def test_names_are_unique_within_a_kind(rendered: list[Body]) -> None:
    keys = [(b["kind"], b["metadata"].get("namespace"), b["metadata"]["name"]) for b in rendered]
    assert len(keys) == len(set(keys))


def test_the_rendered_text_is_clean_yaml(template: Callable[..., Any]) -> None:
    rules = "{extends: relaxed, rules: {line-length: disable, indentation: {indent-sequences: whatever}, empty-lines: {max: 2}}}"
    problems = [str(p) for p in linter.run(template().stdout, YamlLintConfig(rules))]
    assert problems == []


def test_namespaced_objects_say_their_namespace(rendered: list[Body]) -> None:
    """`kubectl apply` of the rendered text must not put them into another one."""
    namespaced = {"Deployment", "DaemonSet", "Service", "ServiceAccount", "Secret", "ConfigMap", "Role", "RoleBinding"}
    missing = [b["metadata"]["name"] for b in rendered if b["kind"] in namespaced and not b["metadata"].get("namespace")]
    assert missing == []


@pytest.mark.parametrize("text", ["docker.io", "ghcr.io", "quay.io", "registry.k8s.io", "gcr.io", "nvcr.io"])
def test_no_registry_is_named(text: str) -> None:
    for path in (REPOSITORY / CHART).rglob("*"):
        assert not path.is_file() or text not in path.read_text(), path
