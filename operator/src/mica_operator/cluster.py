"""The ports on the real API server. Reads are fresh; writes are server-side applies of what differs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from mica_api import names
from mica_api.models import InferenceService
from mica_api.models.common import Condition, WantedCondition, merge_conditions
from mica_api.models.inference_service import InferenceServiceStatus
from mica_api.models.vgpu_pool import VGPUPoolStatus
from mica_operator.core import children
from mica_operator.core.decide import WantedStatus
from mica_operator.core.keys import hash_keys
from mica_operator.core.pools import WantedPoolStatus
from mica_operator.core.views import Body, KeyHashes, Observed, read_child, read_deployment_state, read_pod, read_router
from mica_operator.ports import Seen, Unreadable
from mica_runtime.kube import ApiError, KubeClient

_MICA: Final = f"/apis/{names.API_VERSION}"
_PATHS: Final = {"Deployment": "/apis/apps/v1/namespaces/{}/deployments/{}", "Service": "/api/v1/namespaces/{}/services/{}"}
_conditions: Final = TypeAdapter(list[Condition])

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Wall clock for transition times; nothing is decided by it."""
    return datetime.now(UTC)


class KubeServices:
    """ServiceCluster on the API server. ``router`` is (namespace, name) of the router's Service."""

    def __init__(self, client: KubeClient, *, router: tuple[str, str], now: Clock = utc_now) -> None:
        self._client = client
        self._router = router
        self._now = now

    async def observe(self, namespace: str, name: str) -> Seen | None:
        """See ServiceCluster."""
        body = await _get(self._client, _service_path(namespace, name))
        if body is None or body["metadata"].get("deletionTimestamp"):
            return None
        try:
            service = InferenceService.model_validate(body)
        except ValidationError as error:
            return Seen(body, Unreadable("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())))
        child, cpu = children.child_name(service), children.child_name(service, "cpu")
        (deployment, endpoint), (cpu_deployment, cpu_endpoint), pods, router, keys = await asyncio.gather(
            self._children(namespace, child),
            self._children(namespace, cpu),
            self._pods(namespace, service),
            _get(self._client, _PATHS["Service"].format(*self._router)),
            self._keys(namespace, service),
        )
        views = (read_pod(pod) for pod in pods)
        observed = Observed(
            service=service,
            deployment=read_child(deployment),
            endpoint=read_child(endpoint),
            state=read_deployment_state(deployment),
            pods=tuple(view for view in views if view is not None),
            router=read_router(router),
            cpu_deployment=read_child(cpu_deployment),
            cpu_endpoint=read_child(cpu_endpoint),
            cpu_state=read_deployment_state(cpu_deployment),
            keys=keys,
        )
        return Seen(body, observed)

    async def apply(self, body: Mapping[str, Any]) -> None:
        """See ServiceCluster."""
        meta = body["metadata"]
        path = _PATHS[body["kind"]].format(meta["namespace"], meta["name"])
        await self._client.apply(path, body, field_manager=names.MANAGER_OPERATOR)

    async def delete(self, body: Mapping[str, Any]) -> None:
        """See ServiceCluster."""
        meta = body["metadata"]
        path = _PATHS[body["kind"]].format(meta["namespace"], meta["name"])
        try:
            await self._client.delete(path, body={"preconditions": {"uid": meta["uid"]}, "propagationPolicy": "Background"})
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def write_status(self, seen: Seen, status: WantedStatus) -> bool:
        """See ServiceCluster."""
        meta = seen.body["metadata"]
        wanted = InferenceServiceStatus(
            observed_generation=meta["generation"],
            url=status.url,
            desired_replicas=status.desired_replicas,
            replicas=status.replicas,
            ready_replicas=status.ready_replicas,
            cpu_ready_replicas=status.cpu_ready_replicas,
            api_key_hashes=list(status.api_key_hashes) or None,
            selector=status.selector,
            conditions=_merged(seen.body, status.conditions, self._now()),
        ).to_wire()
        path = _service_path(meta["namespace"], meta["name"])
        return await _apply_status(self._client, path, seen.body, wanted)

    async def _children(self, namespace: str, name: str) -> tuple[Body | None, Body | None]:
        """Deployment and Service of one tier."""
        deployment, endpoint = await asyncio.gather(
            _get(self._client, _PATHS["Deployment"].format(namespace, name)),
            _get(self._client, _PATHS["Service"].format(namespace, name)),
        )
        return deployment, endpoint

    async def _keys(self, namespace: str, service: InferenceService) -> KeyHashes:
        routing = service.spec.routing
        if routing is None or routing.api_key_secret_ref is None:
            return KeyHashes()
        name = routing.api_key_secret_ref.name
        try:
            secret = await _get(self._client, f"/api/v1/namespaces/{namespace}/secrets/{name}")
        except ApiError as error:
            if error.status != 403:
                raise
            return KeyHashes(problem=f"the operator may not read the Secret {name}")
        return hash_keys(name, secret)

    async def _pods(self, namespace: str, service: InferenceService) -> Sequence[Body]:
        selector = ",".join(f"{key}={value}" for key, value in children.selector(service).items())
        found = await self._client.get(f"/api/v1/namespaces/{namespace}/pods", params={"labelSelector": selector})
        items: list[Body] = found.get("items", [])
        return sorted(items, key=lambda pod: str(pod["metadata"]["name"]))


class KubePools:
    """PoolCluster on the API server."""

    def __init__(self, client: KubeClient, *, now: Clock = utc_now) -> None:
        self._client = client
        self._now = now

    async def read(self, name: str) -> Mapping[str, Any] | None:
        """See PoolCluster."""
        body = await _get(self._client, f"{_MICA}/vgpupools/{name}")
        return None if body is None or body["metadata"].get("deletionTimestamp") else body

    async def write_status(self, body: Mapping[str, Any], status: WantedPoolStatus) -> bool:
        """See PoolCluster."""
        wanted = VGPUPoolStatus(
            observed_generation=body["metadata"]["generation"],
            nodes=status.nodes,
            gpus=status.gpus,
            cordoned=status.cordoned,
            capacity=status.capacity,
            allocated=status.allocated,
            summary=status.summary,
            conditions=_merged(body, status.conditions, self._now()),
        ).to_wire()
        return await _apply_status(self._client, f"{_MICA}/vgpupools/{body['metadata']['name']}", body, wanted)

    async def ensure_default(self) -> bool:
        """See PoolCluster."""
        found = await self._client.get(f"{_MICA}/vgpupools", params={"limit": "1"})
        if found.get("items"):
            return False
        pool = {"apiVersion": names.API_VERSION, "kind": "VGPUPool", "metadata": {"name": names.DEFAULT_POOL}, "spec": {}}
        try:
            await self._client.post(f"{_MICA}/vgpupools", pool)
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        return True


async def _get(client: KubeClient, path: str) -> dict[str, Any] | None:
    try:
        return await client.get(path)
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def _service_path(namespace: str, name: str) -> str:
    return f"{_MICA}/namespaces/{namespace}/inferenceservices/{name}"


def _merged(body: Body, wanted: Sequence[WantedCondition], now: datetime) -> list[Condition]:
    """Conditions with the transition times of those that are stored; unreadable ones are replaced."""
    try:
        stored = _conditions.validate_python(body.get("status", {}).get("conditions", []))
    except ValidationError:
        stored = []
    return merge_conditions(stored, wanted, generation=body["metadata"]["generation"], now=now)


async def _apply_status(client: KubeClient, path: str, body: Body, wanted: Mapping[str, Any]) -> bool:
    if body.get("status") == wanted:
        return False
    meta = {key: body["metadata"][key] for key in ("name", "namespace") if key in body["metadata"]}
    patch = {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": meta, "status": dict(wanted)}
    await client.apply(f"{path}/status", patch, field_manager=names.MANAGER_OPERATOR)
    return True
