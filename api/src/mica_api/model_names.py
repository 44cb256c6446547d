"""Who is meant by a model name when several services claim it. The router routes by this and the operator reports it.

`<namespace>/<name>` always means that service. A bare name belongs to the oldest that claims it (creation, then namespace and
name); names of models are given out before adapters and aliases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Claim(NamedTuple):
    """Names of one service. ``created`` is its creation time as the API server writes it, which sorts as text."""

    namespace: str
    name: str
    created: str
    model: str
    aliases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()

    @property
    def qualified(self) -> str:
        """The name that nobody can take."""
        return f"{self.namespace}/{self.name}"

    @property
    def names(self) -> tuple[str, ...]:
        """Every bare name that it claims."""
        return (self.model, *self.adapters, *self.aliases)


def name_owners(claims: Iterable[Claim]) -> Mapping[str, str]:
    """Name to the qualified name of the service that it means."""
    ordered = sorted(claims, key=lambda claim: (claim.created, claim.namespace, claim.name))
    owners = {claim.qualified: claim.qualified for claim in ordered}
    for claim in ordered:
        owners.update({f"{claim.qualified}/{adapter}": claim.qualified for adapter in claim.adapters})
    for claim in ordered:
        owners.setdefault(claim.model, claim.qualified)
    for claim in ordered:
        for name in (*claim.adapters, *claim.aliases):
            owners.setdefault(name, claim.qualified)
    return owners


def shadowed_names(claims: Iterable[Claim], claim: Claim) -> tuple[tuple[str, str], ...]:
    """Names that a service claims and another has, with the other's qualified name."""
    owners = name_owners(claims)
    return tuple((name, owners[name]) for name in dict.fromkeys(claim.names) if owners.get(name) not in (None, claim.qualified))
