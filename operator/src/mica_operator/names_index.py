"""Which names every InferenceService claims, from a local copy: whether a name is another's cannot be seen from one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from mica_api import names
from mica_api.model_names import Claim, name_owners, shadowed_names
from mica_runtime.reflector import Change, Reflector, Source

PATH: Final = f"/apis/{names.API_VERSION}/inferenceservices"


class NamesIndex:
    """NameOwners port over a reflector. ``on_change`` is called with (namespace, name) of services that a change may concern."""

    def __init__(self, source: Source, on_change: Callable[[str, str], None]) -> None:
        self._on_change = on_change
        self._owners: Mapping[str, str] | None = None
        self._reflector = Reflector[Claim](source, path=PATH, decode=_decode, on_change=self._changed)

    async def run(self) -> None:
        """Keep the copy until cancelled."""
        await self._reflector.run()

    async def wait_synced(self) -> None:
        """See NameOwners."""
        await self._reflector.wait_synced()

    def shadowed(self, namespace: str, name: str) -> tuple[tuple[str, str], ...]:
        """See NameOwners. Ask once the copy is complete: an older claim may be among what is missing."""
        claims = list(self._reflector.objects.values())
        own = next((claim for claim in claims if (claim.namespace, claim.name) == (namespace, name)), None)
        return shadowed_names(claims, own) if own is not None else ()

    def owner(self, name: str) -> str | None:
        """``namespace/name`` of the service that a model name means."""
        if self._owners is None:
            self._owners = name_owners(self._reflector.objects.values())
        return self._owners.get(name)

    def _changed(self, change: Change[Claim]) -> None:
        if change.old == change.new:
            return
        self._owners = None
        touched = {name for claim in (change.old, change.new) if claim is not None for name in (*claim.names, claim.qualified)}
        for claim in list(self._reflector.objects.values()):
            if touched.intersection(claim.names):
                self._on_change(claim.namespace, claim.name)


class _Meta(msgspec.Struct):
    name: str
    namespace: str
    creationTimestamp: str = ""


class _Adapter(msgspec.Struct):
    name: str


class _Model(msgspec.Struct):
    name: str | None = None
    aliases: list[str] | None = None
    adapters: list[_Adapter] | None = None


class _Spec(msgspec.Struct):
    model: _Model = msgspec.field(default_factory=_Model)


class _Object(msgspec.Struct):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


def _decode(raw: bytes) -> Claim:
    found = msgspec.json.decode(raw, type=_Object)
    meta, model = found.metadata, found.spec.model
    return Claim(
        namespace=meta.namespace,
        name=meta.name,
        created=meta.creationTimestamp,
        model=model.name or meta.name,
        aliases=tuple(model.aliases or ()),
        adapters=tuple(adapter.name for adapter in model.adapters or ()),
    )
