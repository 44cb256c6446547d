"""The ports on the real API server. Which errors mean "not done" and which mean "unknown" is decided here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from mica_api import names
from mica_extender.ports import WRITE_TIMEOUT_S, BindingLost, BindingRefused, PodGone
from mica_extender.state.records import PodRecord, decode_pod
from mica_runtime.kube import ApiError, KubeClient, KubeError
from mica_runtime.logging import get_logger

_log = get_logger(__name__)
_READ_TIMEOUT_S: Final = 5.0
_SERVER_GIVES_UP: Final = {"timeout": f"{WRITE_TIMEOUT_S:g}s"}
_POKE_PATH: Final = f"/apis/resource.k8s.io/v1/deviceclasses/{names.POKE_OBJECT}"


class KubeApi:
    """Binds, reads and evicts pods, and pokes."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def bind(self, pod: PodRecord, *, node: str, annotations: Mapping[str, str]) -> None:
        """See BindingApi. A server error leaves the outcome open: the write may have been stored before it."""
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {
                "name": pod.name,
                "namespace": pod.namespace,
                "uid": pod.uid,
                "resourceVersion": pod.revision,
                "annotations": dict(annotations),
            },
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            path = f"{_pod_path(pod.namespace, pod.name)}/binding"
            await self._client.post(path, body, params=_SERVER_GIVES_UP, deadline=WRITE_TIMEOUT_S)
        except ApiError as error:
            if error.status >= 500:
                raise BindingLost(str(error)) from error
            raise BindingRefused(str(error), conflict=error.status == 409) from error
        except (KubeError, ValueError) as error:
            raise BindingLost(str(error)) from error

    async def read(self, pod: PodRecord) -> PodRecord:
        """See BindingApi."""
        try:
            raw = await self._client.request("GET", _pod_path(pod.namespace, pod.name), deadline=_READ_TIMEOUT_S)
            stored = decode_pod(raw)
        except ApiError as error:
            if error.status == 404:
                raise PodGone(str(error)) from error
            raise BindingLost(str(error)) from error
        except (KubeError, msgspec.DecodeError) as error:
            raise BindingLost(str(error)) from error
        if stored.uid != pod.uid:
            raise PodGone(f"pod {pod.key} has been replaced")
        return stored

    async def evict(self, *, namespace: str, name: str, uid: str) -> bool:
        """See EvictionApi. 429 is a disruption budget, to be respected by waiting."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        try:
            await self._client.post(f"{_pod_path(namespace, name)}/eviction", body)
        except ApiError as error:
            if error.status in (404, 409):
                return True
            _log.warning("eviction of a refused pod failed", pod=f"{namespace}/{name}", error=str(error))
            return False
        except KubeError as error:
            _log.warning("eviction of a refused pod failed", pod=f"{namespace}/{name}", error=str(error))
            return False
        return True

    async def poke(self, value: str) -> bool:
        """See PokeApi."""
        try:
            patch = {"metadata": {"annotations": {names.ANNOTATION_POKE: value}}}
            await self._client.merge_patch(_POKE_PATH, patch, field_manager=names.MANAGER_EXTENDER)
        except KubeError as error:
            _log.warning("poke failed", object=names.POKE_OBJECT, error=str(error))
            return False
        return True


def _pod_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}"
