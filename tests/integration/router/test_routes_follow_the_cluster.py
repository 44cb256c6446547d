"""The router on a real API server: objects appear, change and go, and so do its routes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from mica_box.testing import RunningBox

from .conftest import TOKENS, StartRouter

pytestmark = pytest.mark.timeout(600)
LABEL = "mica.dev/inference-service"


@pytest.fixture
def namespace(cluster: RunningBox) -> Iterator[str]:
    """A namespace of the test's own, on a cluster that knows our kinds."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "crds")
    crd = "crd/inferenceservices.mica.dev"
    cluster.kubectl("wait", "--for=condition=Established", crd, "--timeout=60s")
    name = f"router-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def minf(namespace: str, name: str, *, model: str) -> dict[str, Any]:
    return {
        "apiVersion": "mica.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"uri": "file:///models/tiny.gguf", "name": model},
            # The engine of these tests is no llama.cpp, which would be asked for a stream at all times.
            "engine": {"type": "custom", "image": "x"},
            "routing": {"queue": {"maxWait": "1s"}},
        },
    }


def engines_of(namespace: str, name: str, *, host: str, port: int, ready: bool) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "namespace": namespace, "labels": {LABEL: name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [host], "conditions": {"ready": ready}}],
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }


def eventually(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_a_service_is_listed_served_and_forgotten(
    cluster: RunningBox, namespace: str, start_router: StartRouter, start_openai_engine: Callable[[str], int]
) -> None:
    model = f"{namespace}-model"
    port = start_openai_engine(cluster.host_ip)
    router = start_router(None, MICA_KUBECONFIG=cluster.kubeconfig)

    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0) as client:

        def listed() -> bool:
            return model in [found.id for found in client.models.list()]

        def ask() -> int:
            try:
                answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
            except openai.APIStatusError as error:
                return error.status_code
            return 200 if answer.choices[0].message.content == "".join(TOKENS) else 0

        assert ask() == 404
        cluster.apply(minf(namespace, "chat", model=model))
        eventually("the model to be listed", listed)
        assert ask() == 503
        cluster.apply(engines_of(namespace, "chat", host=cluster.host_ip, port=port, ready=False))
        cluster.apply(engines_of(namespace, "chat", host=cluster.host_ip, port=port, ready=True))
        eventually("the engine to be used", lambda: ask() == 200)
        with openai.OpenAI(base_url=f"{router.url}/models/{namespace}/chat/v1", api_key="none") as by_path:
            assert [found.id for found in by_path.models.list()] == [model]
        cluster.apply(engines_of(namespace, "chat", host=cluster.host_ip, port=port, ready=False))
        eventually("the engine to be left alone", lambda: ask() == 503)
        cluster.kubectl("-n", namespace, "delete", "minf", "chat")
        eventually("the route to go", lambda: ask() == 404)
        assert not listed()
