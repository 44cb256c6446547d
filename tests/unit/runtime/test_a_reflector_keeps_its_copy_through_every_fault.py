from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import looptime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica_runtime.kube import ApiError, Unreachable
from mica_runtime.reflector import Change, Reflector

# Time jumps instead of passing: pauses cost nothing and can be measured.
pytestmark = pytest.mark.looptime

PATH = "/api/v1/pods"
HANG = object()
Step = Any


def item(name: str, revision: int, value: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns", "resourceVersion": str(revision)}, "value": value}


def page(items: Sequence[Any], *, revision: int = 1, more: str = "") -> bytes:
    return json.dumps({"metadata": {"resourceVersion": str(revision), "continue": more}, "items": items}).encode()


def event(kind: str, body: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def gone() -> bytes:
    return event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})


def decode(raw: bytes) -> str:
    body = json.loads(raw)
    if body["value"] == "bad":
        raise ValueError("cannot be read")
    return str(body["value"])


@dataclass
class Script:
    """A source that answers lists and watches as written, and then is silent. Exceptions are raised where they stand."""

    lists: list[Step]
    watches: list[list[Step]] = field(default_factory=list)
    asked: list[Mapping[str, str]] = field(default_factory=list)
    watched: list[tuple[float, Mapping[str, str]]] = field(default_factory=list)

    async def request(self, method: str, path: str, *, params: Mapping[str, str] | None = None) -> bytes:
        assert (method, path) == ("GET", PATH)
        self.asked.append(dict(params or {}))
        answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, bytes)
        return answer

    async def stream_lines(self, path: str, *, params: Mapping[str, str], silence: float) -> AsyncIterator[bytes]:
        self.watched.append((asyncio.get_running_loop().time(), dict(params)))
        for step in self.watches.pop(0) if self.watches else [HANG]:
            if step is HANG:
                await asyncio.sleep(silence)
                raise Unreachable("silent")
            if isinstance(step, Exception):
                raise step
            yield step


@dataclass
class Watcher:
    reflector: Reflector[str]
    changes: list[Change[str]]


@asynccontextmanager
async def following(script: Script) -> AsyncIterator[Watcher]:
    changes: list[Change[str]] = []
    reflector = Reflector[str](script, path=PATH, decode=decode, on_change=changes.append, params={"labelSelector": "a=b"})
    task = asyncio.create_task(reflector.run())
    try:
        await asyncio.sleep(0.01)
        yield Watcher(reflector, changes)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_list_of_several_pages_is_one_copy() -> None:
    script = Script([page([item("a", 1)], more="t1"), page([item("b", 1)], more="t2"), page([item("c", 1)], revision=7)])
    async with following(script) as watcher:
        assert sorted(watcher.reflector.objects) == ["ns/a", "ns/b", "ns/c"]
        assert watcher.reflector.synced
    assert [p.get("continue") for p in script.asked] == [None, "t1", "t2"]
    assert all(p["labelSelector"] == "a=b" for p in script.asked)
    assert script.watched[0][1]["resourceVersion"] == "7"


async def test_nothing_is_synced_before_the_last_page() -> None:
    script = Script([page([item("a", 1)], more="t1"), Unreachable("down")])
    async with following(script) as watcher:
        assert not watcher.reflector.synced


async def test_events_are_followed_and_told_in_order() -> None:
    lines = [event("ADDED", item("b", 2, "x")), event("MODIFIED", item("b", 3, "y")), event("DELETED", item("a", 4, "one")), HANG]
    script = Script([page([item("a", 1, "one")])], [lines])
    async with following(script) as watcher:
        assert dict(watcher.reflector.objects) == {"ns/b": "y"}
        assert watcher.changes == [
            Change("ns/a", None, "one"),
            Change("ns/b", None, "x"),
            Change("ns/b", "x", "y"),
            Change("ns/a", "one", None),
        ]


async def test_a_broken_stream_goes_on_after_the_last_event() -> None:
    script = Script([page([], revision=5)], [[event("ADDED", item("a", 9, "x")), Unreachable("reset")]])
    async with following(script) as watcher:
        await asyncio.sleep(1)
        assert [params["resourceVersion"] for _, params in script.watched] == ["5", "9"]
        assert len(script.asked) == 1
        assert dict(watcher.reflector.objects) == {"ns/a": "x"}


async def test_a_bookmark_moves_the_revision_and_nothing_else() -> None:
    bookmark = event("BOOKMARK", {"metadata": {"resourceVersion": "90"}})
    script = Script([page([], revision=5)], [[bookmark, Unreachable("reset")]])
    async with following(script) as watcher:
        await asyncio.sleep(1)
        assert script.watched[1][1]["resourceVersion"] == "90"
        assert watcher.changes == []


async def test_a_silent_stream_is_given_up_and_opened_again() -> None:
    script = Script([page([], revision=5)])
    async with following(script):
        await asyncio.sleep(210)
    assert len(script.watched) == 3


@pytest.mark.parametrize("how", [gone(), ApiError(410, "Expired", "gone")])
async def test_an_expired_revision_is_a_new_list_that_tells_only_differences(how: Step) -> None:
    lists = [page([item("a", 1, "x"), item("b", 1, "x")], revision=1), page([item("b", 8, "y"), item("c", 8, "x")], revision=8)]
    script = Script(lists, [[how]])
    async with following(script) as watcher:
        await asyncio.sleep(1)
        assert dict(watcher.reflector.objects) == {"ns/b": "y", "ns/c": "x"}
        assert watcher.changes[2:] == [Change("ns/b", "x", "y"), Change("ns/c", None, "x"), Change("ns/a", "x", None)]
        assert script.watched[1][1]["resourceVersion"] == "8"


async def test_a_list_that_expires_between_pages_starts_again() -> None:
    script = Script([page([item("a", 1)], more="t1"), ApiError(410, "Expired", "gone"), page([item("b", 2)], revision=2)])
    async with following(script) as watcher:
        await asyncio.sleep(1)
        assert sorted(watcher.reflector.objects) == ["ns/b"]


async def test_an_event_that_is_played_again_is_told_once() -> None:
    lines = [event("ADDED", item("a", 1, "x")), event("MODIFIED", item("a", 1, "x")), HANG]
    script = Script([page([item("a", 1, "x")])], [lines])
    async with following(script) as watcher:
        assert watcher.changes == [Change("ns/a", None, "x")]


async def test_an_object_that_cannot_be_read_is_left_out_and_stops_nobody() -> None:
    lines = [
        event("MODIFIED", item("b", 2, "bad")),
        event("ADDED", item("c", 3, "x")),
        event("MODIFIED", item("b", 4, "y")),
        HANG,
    ]
    script = Script([page([item("a", 1, "bad"), item("b", 1, "x")])], [lines])
    async with following(script) as watcher:
        assert dict(watcher.reflector.objects) == {"ns/b": "y", "ns/c": "x"}
        assert Change("ns/b", "x", None) in watcher.changes


@pytest.mark.parametrize("broken", [b"not json\n", event("ERROR", {"code": 500, "message": "boom"}), b'{"type":"ADDED"}\n'])
async def test_a_line_that_makes_no_sense_is_survived(broken: bytes) -> None:
    script = Script([page([item("a", 1, "x")])], [[broken]])
    async with following(script) as watcher:
        await asyncio.sleep(2)
        assert len(script.watched) == 2
        assert dict(watcher.reflector.objects) == {"ns/a": "x"}


@pytest.mark.parametrize("outcome", [[], [Unreachable("refused")], [ApiError(403, "Forbidden", "no")], [gone()]])
async def test_a_server_that_always_fails_is_asked_less_and_less(outcome: list[Step]) -> None:
    heard = outcome and isinstance(outcome[0], bytes)
    script = Script([page([], revision=5)], [list(outcome) for _ in range(1000)])
    async with following(script):
        await asyncio.sleep(60)
    times = [at for at, _ in script.watched]
    assert len(times) <= (400 if heard else 16)
    if not heard:
        assert max(b - a for a, b in pairwise(times)) >= 7.9


async def test_a_failing_list_is_repeated_until_it_works() -> None:
    script = Script([Unreachable("down"), ApiError(500, "", "etcd"), page([item("a", 1, "x")])])
    async with following(script) as watcher:
        await asyncio.sleep(0.1)
        assert not watcher.reflector.synced
        await asyncio.wait_for(watcher.reflector.wait_synced(), timeout=5)
        assert dict(watcher.reflector.objects) == {"ns/a": "x"}


async def test_an_event_of_the_past_changes_nothing() -> None:
    lines = [
        event("MODIFIED", item("a", 9, "new")),
        event("MODIFIED", item("a", 7, "old")),
        event("DELETED", item("b", 10)),
        event("MODIFIED", item("b", 8, "old")),
        event("DELETED", item("a", 6)),
        Unreachable("reset"),
    ]
    script = Script([page([item("a", 1, "x"), item("b", 1, "x")], revision=5)], [lines])
    async with following(script) as watcher:
        await asyncio.sleep(1)
        assert dict(watcher.reflector.objects) == {"ns/a": "new"}
        assert script.watched[1][1]["resourceVersion"] == "10"


async def test_a_list_older_than_the_copy_is_asked_for_again() -> None:
    lists = [page([item("a", 5, "x")], revision=5), page([], revision=3), page([item("a", 9, "y")], revision=9)]
    script = Script(lists, [[gone()]])
    async with following(script) as watcher:
        await asyncio.sleep(3)
        assert dict(watcher.reflector.objects) == {"ns/a": "y"}
        assert Change("ns/a", "x", None) not in watcher.changes


async def test_an_api_server_whose_revisions_went_back_for_good_is_believed() -> None:
    script = Script([page([item("a", 50, "x")], revision=50), page([item("b", 2, "y")], revision=3)], [[gone()]])
    async with following(script) as watcher:
        await asyncio.sleep(60)
        assert dict(watcher.reflector.objects) == {"ns/b": "y"}


async def test_a_refresh_brings_what_a_lagging_watch_has_not_shown() -> None:
    lists = [page([item("a", 1, "x"), item("b", 1, "x")], revision=5), page([item("a", 7, "y")], revision=9)]
    script = Script(lists)
    async with following(script) as watcher:
        await watcher.reflector.refresh()
        assert dict(watcher.reflector.objects) == {"ns/a": "y"}
        assert len(script.watched) == 1, "the watch goes on"


async def test_a_refresh_spares_what_came_after_its_list() -> None:
    class Slow(Script):
        async def request(self, method: str, path: str, *, params: Mapping[str, str] | None = None) -> bytes:
            answer = await super().request(method, path, params=params)
            await asyncio.sleep(0 if len(self.asked) == 1 else 2)
            return answer

        async def stream_lines(self, path: str, *, params: Mapping[str, str], silence: float) -> AsyncIterator[bytes]:
            await asyncio.sleep(1)
            yield event("ADDED", item("c", 12, "late"))
            yield event("MODIFIED", item("a", 11, "newer"))
            await asyncio.sleep(silence)

    script = Slow([page([item("a", 1, "x")], revision=5), page([item("a", 7, "old")], revision=9)])
    async with following(script) as watcher:
        await watcher.reflector.refresh()
        assert dict(watcher.reflector.objects) == {"ns/a": "newer", "ns/c": "late"}


async def test_a_refresh_that_was_overtaken_by_a_list_brings_nothing_back() -> None:
    class Overtaken(Script):
        async def request(self, method: str, path: str, *, params: Mapping[str, str] | None = None) -> bytes:
            answer = await super().request(method, path, params=params)
            await asyncio.sleep((1, 2, 0)[min(len(self.asked), 3) - 1])
            return answer

    fresh = page([item("a", 1, "x")], revision=5)
    script = Overtaken([fresh, page([item("a", 1, "x"), item("gone", 2, "y")], revision=3), fresh])
    async with following(script) as watcher:
        await watcher.reflector.refresh()
        assert dict(watcher.reflector.objects) == {"ns/a": "x"}


async def test_a_refresh_is_repeated_until_it_works() -> None:
    script = Script([page([], revision=5), Unreachable("down"), ApiError(429, "", "busy"), page([item("a", 8, "y")], revision=8)])
    async with following(script) as watcher:
        await watcher.reflector.refresh()
        assert dict(watcher.reflector.objects) == {"ns/a": "y"}


_names = st.sampled_from("abc")
_happenings = st.lists(st.tuples(_names, st.sampled_from(["set", "delete", "reset", "expire"])), max_size=12)


@given(_happenings)
@settings(max_examples=40)
def test_the_copy_ends_as_the_server_whatever_happens_on_the_way(happenings: list[tuple[str, str]]) -> None:
    """The server's truth changes; the stream is cut or expires at any place; the copy and the told changes agree with it."""
    truth: dict[str, tuple[int, str]] = {}
    lines: list[list[Step]] = [[]]
    lists: list[bytes] = [page([], revision=1)]
    for number, (name, what) in enumerate(happenings, start=2):
        if what == "set":
            kind = "MODIFIED" if name in truth else "ADDED"
            truth[name] = (number, str(number))
            lines[-1].append(event(kind, item(name, number, str(number))))
        elif what == "delete" and name in truth:
            del truth[name]
            lines[-1].append(event("DELETED", item(name, number)))
        elif what == "reset":
            lines[-1].append(Unreachable("reset"))
            lines.append([])
        elif what == "expire":
            lines[-1].append(gone())
            lines.append([])
            lists.append(page([item(n, revision, value) for n, (revision, value) in truth.items()], revision=number))
    lines[-1].append(HANG)
    script = Script(lists, lines)

    async def run() -> tuple[dict[str, str], list[Change[str]]]:
        async with following(script) as watcher:
            # Longer than all pauses between the streams together; by then nothing new comes.
            await asyncio.sleep(200)
            return dict(watcher.reflector.objects), watcher.changes

    loop = looptime.new_event_loop()
    try:
        objects, changes = loop.run_until_complete(run())
    finally:
        loop.close()
    assert objects == {f"ns/{name}": value for name, (_, value) in truth.items()}
    told: dict[str, str] = {}
    for change in changes:
        assert told.get(change.key) == change.old
        if change.new is None:
            del told[change.key]
        else:
            told[change.key] = change.new
    assert told == objects
