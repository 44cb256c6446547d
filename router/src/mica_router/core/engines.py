"""What the router knows of one engine: where it listens, what kind it is, and what it serves. Values only.

Not here: how busy or how healthy it is (`relay.load`, `relay.health`), and how one is picked (`core.policies`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Tier = Literal["gpu", "cpu"]
Kind = Literal["vllm", "llamacpp", "other"]


class Endpoint(NamedTuple):
    """Where one engine listens. `host` is an address or a DNS name, IPv6 without brackets; `tls`: it speaks HTTPS."""

    host: str
    port: int
    tls: bool = False

    @property
    def authority(self) -> str:
        """Value for a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine of a service.

    `weight`: capacity relative to the others of the service. `max_in_flight`: requests it takes at once, 0 = no bound.
    `revision`, `dtype` and `version` (of the engine program) are empty where they are not known; an unknown value equals nothing
    but itself, so engines of one Deployment, which all know or all do not, are equal. `numerics`: engines that name the same one
    are known to compute the same bits, whatever tier they are in; empty: those of one tier are taken to. `vocabulary`: engines
    that name the same one read token ids alike; empty: those of the same revision are taken to.
    """

    endpoint: Endpoint
    tier: Tier = "gpu"
    kind: Kind = "other"
    weight: float = 1.0
    max_in_flight: int = 0
    revision: str = ""
    dtype: str = ""
    version: str = ""
    numerics: str = ""
    vocabulary: str = ""

    def continues(self, other: Engine) -> bool:
        """Whether token ids of `other` mean the same here and lead on in the same way: same program, weights and arithmetic."""
        return (
            self.kind == other.kind
            and self.numerics == other.numerics
            and (self.tier == other.tier or self.numerics != "")
            and self.revision == other.revision
            and self.dtype == other.dtype
            and self.version == other.version
        )

    def takes_over(self, other: Engine) -> bool:
        """Whether token ids of `other`, an engine of the same service, mean the same here, wherever they lead from there.

        Ids are known of vLLM only. Precision, program version and tier may differ, because no more than a valid continuation is
        asked for.
        """
        if self.kind != "vllm" or other.kind != "vllm":
            return False
        if self.vocabulary or other.vocabulary:
            return self.vocabulary == other.vocabulary
        return self.revision == other.revision
