"""A local copy of one kind of object, kept by list and watch.

Semantics of client-go's reflector: page through a list, watch from its revision, go on from the last event after a broken or
silent stream, list again when the revision is gone (410). Objects are decoded by the caller's function, only into what it needs;
one that cannot be decoded is logged and left out, it never stops the others. The copy never goes back: what is older than what it
has of an object, by resource version, is ignored. Not a queue: ``on_change`` runs in the loop and must not block.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from mica_runtime.kube import ApiError, KubeError
from mica_runtime.logging import get_logger

T = TypeVar("T")

_PAGE: Final = 500
_SILENCE_S: Final = 100.0  # bookmarks come about once a minute
_HEALTHY_S: Final = 5.0
_BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_STALE_LISTS: Final = 5
"""Lists in a row that may be older than the copy before they are believed: an API server restored from a backup starts lower."""
_TOMBSTONES: Final = 1024
"""Objects that went away and are remembered, so that an old event does not bring them back."""
_log = get_logger(__name__)


class Source(Protocol):
    """The part of the client that a reflector needs."""

    async def request(self, method: str, path: str, *, params: Mapping[str, str] | None = None) -> bytes:
        """Body of a list."""
        ...

    def stream_lines(self, path: str, *, params: Mapping[str, str], silence: float) -> AsyncIterator[bytes]:
        """Lines of a watch."""
        ...


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """One object that appeared (``old`` is None), changed, or went away (``new`` is None)."""

    key: str
    old: T | None
    new: T | None


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""


class _Head(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


class _ListMeta(msgspec.Struct):
    resourceVersion: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] = []


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _StatusCode(msgspec.Struct):
    code: int = 0
    message: str = ""


_decode_list: Final = msgspec.json.Decoder(_List).decode
_decode_event: Final = msgspec.json.Decoder(_Event).decode
_decode_head: Final = msgspec.json.Decoder(_Head).decode
_decode_status: Final = msgspec.json.Decoder(_StatusCode).decode


class _Expired(Exception):
    """The watch's revision is gone; list again."""


class _Stale(Exception):
    """The list is older than the copy."""


class Reflector(Generic[T]):
    """Copy of the objects at ``path``; keys are ``namespace/name`` (``name`` for cluster-scoped kinds).

    ``decode`` turns the JSON bytes of one object into a T. ``on_change`` sees every change in order, after the copy has it.
    """

    def __init__(
        self,
        source: Source,
        *,
        path: str,
        decode: Callable[[bytes], T],
        on_change: Callable[[Change[T]], None] | None = None,
        params: Mapping[str, str] | None = None,
        silence: float = _SILENCE_S,
    ) -> None:
        self._source = source
        self._path = path
        self._decode = decode
        self._on_change = on_change
        self._params = dict(params or {})
        self._silence = silence
        self._objects: dict[str, T] = {}
        self._revisions: dict[str, str] = {}
        self._synced = asyncio.Event()
        self._revision = ""
        self._newest = 0
        self._listed = 0
        self._stale_lists = 0
        self._gone: OrderedDict[str, str] = OrderedDict()
        self._heard = False

    @property
    def objects(self) -> Mapping[str, T]:
        """Read-only view of the copy."""
        return MappingProxyType(self._objects)

    @property
    def synced(self) -> bool:
        """Whether at least one list is complete."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Return once the first list is complete."""
        await self._synced.wait()

    async def refresh(self) -> None:
        """Return once the copy holds everything that was stored when this was called; the watch goes on meanwhile.

        A list without a revision is a consistent read, whatever the watch lags behind.
        """
        failures = 0
        while True:
            try:
                await self._list(believe=False)
            except (_Expired, _Stale, KubeError, msgspec.DecodeError) as error:
                _log.warning("list for a refresh failed", path=self._path, problem=str(error) or type(error).__name__)
            else:
                return
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            failures += 1

    async def run(self) -> None:
        """Keep the copy until cancelled."""
        failures = 0
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            self._heard = False
            problem = await self._list_and_watch()
            if self._heard or clock() - began >= _HEALTHY_S:
                failures = 0
                if problem is None:
                    continue
            delay = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)] * random.uniform(0.8, 1.2)
            failures += 1
            _log.warning("list or watch ended", path=self._path, problem=problem or "closed at once", retry_in_s=round(delay, 2))
            await asyncio.sleep(delay)

    async def _list_and_watch(self) -> str | None:
        """One stream, after a list where the revision is not known; why it failed, or None when the server just ended it."""
        try:
            if not self._revision:
                self._revision = await self._list(believe=True)
            await self._watch()
        except _Expired:
            self._revision = ""
            return "revision expired"
        except _Stale as stale:
            return str(stale)
        except ApiError as error:
            self._revision = ""
            return str(error)
        except (KubeError, msgspec.DecodeError) as error:
            return str(error)
        return None

    async def _list(self, *, believe: bool) -> str:
        """Revision of the list. ``believe``: one that stays older than the copy replaces it; the watch then begins from it."""
        seen: set[str] = set()
        token = ""
        known = self._newest
        while True:
            params = {**self._params, "limit": str(_PAGE), **({"continue": token} if token else {})}
            try:
                page = _decode_list(await self._source.request("GET", self._path, params=params))
            except ApiError as error:
                if error.status == 410 and token:
                    raise _Expired from error
                raise
            if not token:
                self._check_age(page.metadata.resourceVersion, known, believe=believe)
            # What was gone by the watch's own list would come back with an older one, and no event would take it away again.
            if not believe and 0 < _number(page.metadata.resourceVersion) < self._listed:
                raise _Stale(f"list of revision {page.metadata.resourceVersion} was overtaken by one of {self._listed}")
            for raw in page.items:
                seen.add(self._store(bytes(raw)))
            token = page.metadata.continue_
            if not token:
                break
        revision = page.metadata.resourceVersion
        for key in [key for key in self._objects if key not in seen and not _older(revision, self._revisions[key])]:
            self._remove(key, revision)
        if believe:
            self._listed = _number(revision)
        self._synced.set()
        return revision

    def _check_age(self, revision: str, known: int, *, believe: bool) -> None:
        """Raises _Stale for a list from before what was ``known`` when it was asked for, unless that goes on."""
        number = _number(revision)
        if number >= known or not number:
            self._stale_lists = 0
            self._newest = max(number, self._newest)
            return
        self._stale_lists += believe
        if not believe or self._stale_lists <= _STALE_LISTS:
            raise _Stale(f"list of revision {revision} is older than {known}, which was seen already")
        _log.error("revisions of the API server went back; its lists are believed", path=self._path, revision=revision)
        self._stale_lists, self._newest = 0, number
        self._revisions.update(dict.fromkeys(self._revisions, ""))
        self._gone.clear()

    async def _watch(self) -> None:
        params = {
            **self._params,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._revision,
            "timeoutSeconds": str(random.randint(300, 600)),
        }
        async for line in self._source.stream_lines(self._path, params=params, silence=self._silence):
            if line.strip():
                self._heard = True
                self._revision = self._apply(_decode_event(line)) or self._revision

    def _apply(self, event: _Event) -> str:
        raw = bytes(event.object)
        if event.type == "ERROR":
            status = _decode_status(raw)
            if status.code == 410:
                raise _Expired
            raise ApiError(status.code, "", status.message)
        meta = _decode_head(raw).metadata
        if event.type in ("ADDED", "MODIFIED"):
            self._store(raw)
        elif event.type == "DELETED":
            self._remove(_key(meta), meta.resourceVersion)
        if _older(meta.resourceVersion, self._revision):
            return self._revision
        self._newest = max(self._newest, _number(meta.resourceVersion))
        return meta.resourceVersion

    def _store(self, raw: bytes) -> str:
        meta = _decode_head(raw).metadata
        key = _key(meta)
        known = self._revisions.get(key) or self._gone.get(key, "")
        if known == meta.resourceVersion or _older(meta.resourceVersion, known):
            return key
        try:
            new = self._decode(raw)
        except (ValueError, msgspec.DecodeError) as error:
            _log.error("object cannot be read and is left out", path=self._path, key=key, error=str(error))
            self._remove(key, meta.resourceVersion)
            return key
        old = self._objects.get(key)
        self._objects[key] = new
        self._revisions[key] = meta.resourceVersion
        self._notify(Change(key, old, new))
        return key

    def _remove(self, key: str, revision: str) -> None:
        if _older(revision, self._revisions.get(key, "")):
            return
        self._gone[key] = revision
        self._gone.move_to_end(key)
        if len(self._gone) > _TOMBSTONES:
            self._gone.popitem(last=False)
        old = self._objects.pop(key, None)
        self._revisions.pop(key, None)
        if old is not None:
            self._notify(Change(key, old, None))

    def _notify(self, change: Change[T]) -> None:
        if self._on_change is not None:
            self._on_change(change)


def _key(meta: _Meta) -> str:
    return f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name


def _number(revision: str) -> int:
    """Resource versions of built-in and custom resources compare as numbers; 0 for anything else, which is never older."""
    return int(revision) if revision.isascii() and revision.isdigit() else 0


def _older(one: str, other: str) -> bool:
    return 0 < _number(one) < _number(other)
