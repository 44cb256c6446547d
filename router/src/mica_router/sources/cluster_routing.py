"""`spec.routing` and `spec.cpu` of an InferenceService as the values that are enforced. Pure.

The API server has checked the fields; what it cannot check is refused here by ValueError, and the service then has no route.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mica_api.durations import parse_duration
from mica_router.core import routing as values
from mica_router.core.rules import parse_rules

NO_KEY: Final = bytes(32)
"""A digest that no key has, as far as anybody knows: keys are asked for and none was read, so nothing may pass."""


class _Timeouts(msgspec.Struct):
    connect: str | None = None
    firstByte: str | None = None
    idle: str | None = None
    total: str | None = None


class _Queue(msgspec.Struct):
    maxRequests: int = 512
    maxWait: str = "120s"
    heartbeat: str = "10s"


class _SecretRef(msgspec.Struct):
    name: str


class Routing(msgspec.Struct):
    """`spec.routing` on the wire."""

    policy: values.Policy = "auto"
    sessionHeader: str = "x-session-id"
    timeouts: _Timeouts = msgspec.field(default_factory=_Timeouts)
    retries: int = 2
    resumeMidStream: bool = True
    hedgeAfter: str | None = None
    queue: _Queue = msgspec.field(default_factory=_Queue)
    apiKeySecretRef: _SecretRef | None = None
    rules: Any = None


class _When(msgspec.Struct):
    gpuKVPercent: float = 90
    gpuWaiting: int = 1
    noGPUReady: bool = True


class CPUUse(msgspec.Struct):
    """`spec.cpu` on the wire, as far as it is about routing."""

    mode: values.CpuMode = "overflow"
    when: _When = msgspec.field(default_factory=_When)
    maxOutputTokens: int = 256
    relayAfterTokens: int = 64


def read_routing(routing: Routing | None, *, cpu: CPUUse | None, key_hashes: Sequence[str]) -> values.Routing:
    """Routing of one service. Raises ValueError in words."""
    found = routing or Routing()
    timeouts, queue = found.timeouts, found.queue
    return values.Routing(
        policy=found.policy,
        session_header=found.sessionHeader,
        deadlines=values.EngineDeadlines(
            connect=_seconds(timeouts.connect),
            first_byte=_seconds(timeouts.firstByte),
            idle=_seconds(timeouts.idle),
            total=_seconds(timeouts.total) or 0.0,
        ),
        retries=found.retries,
        resume=found.resumeMidStream,
        hedge_after=_seconds(found.hedgeAfter) or 0.0,
        queue=values.QueueLimits(
            max_requests=queue.maxRequests,
            max_wait=parse_duration(queue.maxWait),
            heartbeat=parse_duration(queue.heartbeat),
        ),
        api_keys=_keys(found, key_hashes),
        cpu=values.CpuUse() if cpu is None else _cpu(cpu),
        rules=parse_rules(found.rules),
    )


def _cpu(cpu: CPUUse) -> values.CpuUse:
    return values.CpuUse(
        mode=cpu.mode,
        gpu_kv_percent=cpu.when.gpuKVPercent,
        gpu_waiting=cpu.when.gpuWaiting,
        no_gpu_ready=cpu.when.noGPUReady,
        max_output_tokens=cpu.maxOutputTokens,
        relay_after=cpu.relayAfterTokens,
    )


def _keys(routing: Routing, hashes: Sequence[str]) -> tuple[bytes, ...]:
    """Digests that are accepted; hashes that are still in the status of a service without keys are not used."""
    if routing.apiKeySecretRef is None:
        return ()
    return tuple(bytes.fromhex(one) for one in hashes) or (NO_KEY,)


def _seconds(text: str | None) -> float | None:
    return None if text is None else parse_duration(text)
