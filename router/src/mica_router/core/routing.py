"""How requests of one service are routed: policy, deadlines, retries, queue, tiers, keys. Values with their defaults, no rules.

Read from `spec.routing` and `spec.cpu` of an InferenceService, or from a routes file; whoever reads them refuses what is not
enforced here. Times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mica_router.core.engines import Tier

Policy = Literal["auto", "round-robin", "least-inflight", "p2c", "session", "prefix"]
CpuMode = Literal["overflow", "relay", "standby"]
DeciderPolicy = Literal["predict", "thresholds", "balance"]
Operator = Literal["eq", "gt", "gte", "lt", "lte", "in", "min_count", "max_count", "exists"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDeadlines:
    """Deadlines towards engines. None: the process's setting. `total` bounds the whole exchange; 0 does not."""

    connect: float | None = None
    first_byte: float | None = None
    idle: float | None = None
    total: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """Requests held while no engine can take them. `heartbeat`: seconds between SSE comments to a held stream; 0 sends none."""

    max_requests: int = 512
    max_wait: float = 120.0
    heartbeat: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One test of a request field, named as `core.rules` says."""

    field: str
    operator: Operator
    value: object


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRule:
    """Requests that meet every condition prefer `tier`. `core.rules` puts rules in the order in which they are tried."""

    name: str
    priority: int = 0
    conditions: tuple[Condition, ...] = ()
    tier: Tier = "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuUse:
    """When the CPU tier takes requests. `max_output_tokens` keeps longer answers off it; 0 does not.

    `relay_after`: in mode relay, tokens that the GPU tier produces before the CPU tier continues.
    """

    mode: CpuMode = "overflow"
    gpu_kv_percent: float = 90.0
    gpu_waiting: int = 1
    no_gpu_ready: bool = True
    max_output_tokens: int = 0
    relay_after: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDefaults:
    """What requests for chats and completions get that do not say it. None: they go to the engine without it."""

    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeciderUse:
    """What places requests on tiers: `core.tiers_decide` (predict) or one of `core.syshax`, with its numbers."""

    policy: DeciderPolicy = "predict"
    max_num_seqs: int | None = 256
    gpu_cache_threshold: float = 90.0
    cpu_throughput_threshold: float = 10.0
    token_limit_multiplier: float = 4.0
    token_limit_min: int = 10
    token_limit_max: int = 100
    cpu_max_batch_size: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Routing of one service.

    `hedge_after`: seconds after which a request that is not a stream is sent to a second engine as well; 0 never does. `api_keys`
    are sha256 digests; empty: no key is asked for. `prefix_bytes`: how much of the prompt decides in policy `prefix`.
    `load_bound`: how far above the mean an engine may be loaded in policies `prefix` and `session`.
    `decider` and `defaults` come from routes files only.
    """

    policy: Policy = "auto"
    session_header: str = "x-session-id"
    prefix_bytes: int = 1024
    load_bound: float = 1.25
    deadlines: EngineDeadlines = field(default_factory=EngineDeadlines)
    retries: int = 2
    resume: bool = True
    hedge_after: float = 0.0
    queue: QueueLimits = field(default_factory=QueueLimits)
    api_keys: tuple[bytes, ...] = ()
    cpu: CpuUse = field(default_factory=CpuUse)
    rules: tuple[FieldRule, ...] = ()
    decider: DeciderUse | None = None
    defaults: RequestDefaults | None = None


DEFAULT_ROUTING = Routing()
