"""The chart, rendered by the real helm."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from mica_box import binaries
from mica_box.paths import paths_from
from mica_box.versions import load_versions
from mica_generate.files import CHART, REPOSITORY

Body = dict[str, Any]
Render = Callable[..., list[Body]]
Template = Callable[..., "subprocess.CompletedProcess[str]"]
NAMESPACE = "mica-system"
IMAGE = "localhost/kube-scheduler:v1"


@pytest.fixture(scope="session")
def helm() -> Path:
    paths = paths_from(os.environ)
    return binaries.ensure(paths, load_versions(paths.hack / "versions.toml"))["helm"]


@pytest.fixture(scope="session")
def template(helm: Path) -> Template:
    """`helm template` with `key=value` settings; the scheduler's image is set unless told otherwise."""

    def run(*settings: str, namespace: str = NAMESPACE) -> subprocess.CompletedProcess[str]:
        values = [f"scheduler.image={IMAGE}", *settings]
        flags = [part for value in values for part in ("--set", value)]
        command = [str(helm), "template", "mica", CHART, "--namespace", namespace, *flags]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def render(template: Template) -> Render:
    """Rendered objects."""

    def run(*settings: str) -> list[Body]:
        done = template(*settings)
        assert done.returncode == 0, done.stderr
        return [body for body in yaml.safe_load_all(done.stdout) if body]

    return run


@pytest.fixture(scope="session")
def rendered(render: Render) -> list[Body]:
    """With everything that is off by default switched on."""
    return render(
        "router.replicas=2",
        "router.tls.secretName=router-tls",
        "scheduler.replicas=2",
        "simulatedGPUs.enabled=true",
        "simulatedGPUs.config=version=1",
        "engines.llamacpp.image=localhost/engine:1",
        "imagePullSecrets[0].name=pull",
    )


def pod_templates(bodies: Sequence[Body]) -> Iterator[tuple[str, Body]]:
    """(object, pod spec) of everything that makes pods."""
    for body in bodies:
        if body["kind"] in ("Deployment", "DaemonSet", "StatefulSet", "Job"):
            yield f"{body['kind']}/{body['metadata']['name']}", body["spec"]["template"]["spec"]


@pytest.fixture(scope="session")
def pods(rendered: list[Body]) -> dict[str, Body]:
    """Pod specs by the object that makes them."""
    return dict(pod_templates(rendered))


@pytest.fixture(scope="session")
def containers(pods: dict[str, Body]) -> dict[str, Body]:
    """All containers, by object and name."""
    return {f"{owner}/{c['name']}": c for owner, pod in pods.items() for c in pod["containers"]}


@pytest.fixture(scope="session")
def find(rendered: list[Body]) -> Callable[[str, str], Body]:
    """One rendered object."""

    def one(kind: str, name: str) -> Body:
        (found,) = [b for b in rendered if b["kind"] == kind and b["metadata"]["name"] == name]
        return found

    return one
