"""The Event object that is applied, checked against Kubernetes' own schema."""

from __future__ import annotations

import datetime
from typing import Any, cast

import kubernetes_validate

from mica_extender.event_api import KubeEvents
from mica_extender.events import PodEvent
from mica_runtime.kube import KubeClient, Unreachable

NOON = datetime.datetime(2026, 1, 2, 12, 0, 0, 5, tzinfo=datetime.UTC)


class Client:
    """Keeps what is applied."""

    def __init__(self, *, reachable: bool = True) -> None:
        self.applied: list[tuple[str, dict[str, Any], str]] = []
        self.reachable = reachable

    async def apply(self, path: str, body: dict[str, Any], *, field_manager: str) -> dict[str, Any]:
        if not self.reachable:
            raise Unreachable(path)
        self.applied.append((path, body, field_manager))
        return body


def events_of(client: Client) -> KubeEvents:
    return KubeEvents(cast("KubeClient", client), now=lambda: NOON)


async def test_an_event_is_applied_under_its_own_name_beside_the_pod() -> None:
    client = Client()
    event = PodEvent("team", "big", "uid-1", "0/1 GPU nodes have room", 2, first_s_ago=61)
    assert await events_of(client).write(event)
    ((path, body, manager),) = client.applied
    kubernetes_validate.validate(body, "1.34", strict=True)
    assert path == f"/api/v1/namespaces/team/events/{event.name}"
    assert manager == "mica-extender"
    assert body["involvedObject"]["uid"] == "uid-1"
    assert body["lastTimestamp"] == "2026-01-02T12:00:00Z"
    assert body["firstTimestamp"] == "2026-01-02T11:58:59Z"


async def test_what_could_not_be_applied_is_said() -> None:
    assert not await events_of(Client(reachable=False)).write(PodEvent("team", "big", "uid-1", "", 1))
