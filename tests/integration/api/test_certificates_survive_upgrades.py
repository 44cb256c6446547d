from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from mica_box.testing import RunningBox
from mica_generate.files import CHART, REPOSITORY

Body = dict[str, Any]
NAMESPACE = "mica-it-certificates"


@pytest.fixture(scope="module")
def release(crds: RunningBox) -> Iterator[RunningBox]:
    """A namespace for a release that is rendered by helm against the cluster, as an upgrade is."""
    crds.kubectl("create", "namespace", NAMESPACE)
    yield crds
    crds.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _render(cluster: RunningBox) -> dict[str, Body]:
    command = [str(cluster.box.binary("helm")), "template", "mica", CHART, "--dry-run=server", "--namespace", NAMESPACE]
    command += ["--set", "scheduler.image=x,crds.enabled=false"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=cluster.environment)
    assert done.returncode == 0, done.stderr
    bodies = [body for body in yaml.safe_load_all(done.stdout) if body]
    return {f"{b['kind']}/{b['metadata']['name']}": b for b in bodies}


def _store_secrets(cluster: RunningBox, rendered: dict[str, Body]) -> None:
    """As a release leaves them; helm does not touch what it has not marked as its own."""
    owned = {"meta.helm.sh/release-name": "mica", "meta.helm.sh/release-namespace": NAMESPACE}
    secrets = [body for name, body in rendered.items() if name.startswith("Secret/")]
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    cluster.apply(
        *[
            {**b, "metadata": {**b["metadata"], "annotations": owned, "labels": {**b["metadata"]["labels"], **labels}}}
            for b in secrets
        ]
    )


def test_what_is_stored_is_used_again_and_pods_are_not_restarted(release: RunningBox) -> None:
    first = _render(release)
    _store_secrets(release, first)
    second = _render(release)
    assert second == first


def test_half_a_pair_is_made_anew_as_a_whole(release: RunningBox) -> None:
    """An interrupted installation may have stored one of the two secrets that one authority signed."""
    first = _render(release)
    _store_secrets(release, first)
    release.kubectl("-n", NAMESPACE, "delete", "secret", "mica-scheduler-client-tls")
    second = _render(release)
    server, client = second["Secret/mica-scheduler-tls"]["data"], second["Secret/mica-scheduler-client-tls"]["data"]
    assert server["ca.crt"] == client["ca.crt"] != first["Secret/mica-scheduler-tls"]["data"]["ca.crt"]
    assert second["Secret/mica-webhook-tls"] == first["Secret/mica-webhook-tls"]
