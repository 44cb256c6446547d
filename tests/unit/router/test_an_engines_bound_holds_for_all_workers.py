"""`maxInFlight` bounds what an engine gets from all workers together, also when several choose it at the same moment."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.choice import Hold, LoadView, Pick
from mica_router.core.continuation import Handling
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.features import Features
from mica_router.core.policies import PolicyChooser
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.relay.board import Board, Rows, SharedCounts
from mica_router.relay.load import Load
from mica_router.relay.search import with_room

from .conftest import CHAT, OK_RESPONSE, Bench, EngineRequest, ScriptedEngine, eventually, post, settle, within

ENGINE = Endpoint("10.0.0.1", 80)


def loads(board: Board, workers: int) -> list[Load]:
    rows, made = Rows(board).assign([ENGINE]), []
    for column in range(workers):
        counts = SharedCounts(board, column=column)
        counts.use(rows)
        made.append(Load(lambda: 0.0, counts=counts))
    return made


@given(st.integers(1, 4), st.lists(st.booleans(), max_size=30))
def test_workers_that_all_chose_before_any_was_counted_take_the_places_that_there_are(bound: int, steps: list[bool]) -> None:
    """A step is a worker that wants a place which it found free, or one that gives its place back."""
    board, engine = Board.create(workers=3), Engine(endpoint=ENGINE, max_in_flight=bound)
    workers, free, taken = loads(board, 3), Pick(engine), [0, 0, 0]
    for number, wants in enumerate(steps):
        who = number % 3
        if wants:
            full = sum(taken) == bound
            found = with_room(workers[who], free, lambda: free)
            assert found == (Hold("saturated") if full else free)
            taken[who] += not full
        elif taken[who]:
            workers[who].vacate(ENGINE)
            taken[who] -= 1
        assert workers[0].in_flight(ENGINE) == sum(taken) <= bound
    os.close(board.file)


class Quicker(PolicyChooser):
    """Another worker takes the last place at the engine that is chosen first, after it was chosen."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.takes: Endpoint | None = None

    def choose(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Pick | Hold:
        found = super().choose(features, candidates=candidates, load=load)
        if self.takes is None and isinstance(found, Pick):
            self.takes = found.engine.endpoint
            self._load.occupy(self.takes)
        return found

    def leaves(self) -> None:
        assert self.takes is not None
        self._load.vacate(self.takes)


async def bounded(bench: Bench, count: int) -> tuple[list[ScriptedEngine], Quicker]:
    """So many engines with one place each."""

    async def answer(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(OK_RESPONSE)

    engines = [await bench.engine() for _ in range(count)]
    for engine in engines:
        engine.script = answer
    listed = tuple(Engine(endpoint=engine.endpoint, max_in_flight=1) for engine in engines)
    bench.server.publish(build_table([Service(key=ServiceKey("team-a", "chat"), model="chat", engines=listed)]))
    bench.context.chooser = chooser = Quicker(bench.context.load)
    return engines, chooser


async def test_who_comes_too_late_for_the_last_place_waits_until_it_is_free(bench: Bench) -> None:
    [engine], other = await bounded(bench, 1)
    client = await bench.client()
    client.send(post(CHAT))
    await eventually(lambda: len(bench.context.load.waiting) == 1)
    bench.pass_time(0.25)
    await settle()
    assert engine.requests == []
    other.leaves()
    bench.pass_time(0.25)
    assert (await within(client.response())).status == 200
    assert bench.context.load.in_flight(engine.endpoint) == 0
    assert bench.context.metrics.decisions == {("chat", "gpu", "policy"): 1}


async def test_who_comes_too_late_at_one_engine_goes_to_another_that_has_room(bench: Bench) -> None:
    engines, other = await bounded(bench, 2)
    assert (await within(bench.ask(post(CHAT)))).status == 200
    assert bench.context.metrics.holds == {}
    assert [engine.requests == [] for engine in engines] == [engine.endpoint == other.takes for engine in engines]
    other.leaves()
    assert [bench.context.load.in_flight(engine.endpoint) for engine in engines] == [0, 0]


class FailingBook:
    """Fails before the request is on its way to the engine whose place it has."""

    def open(self, features: Features, engine: Engine) -> Handling:
        raise RuntimeError("boom")

    def open_leg(self, features: Features, engine: Engine, *, tokens: int) -> Handling:
        raise RuntimeError("boom")


async def test_a_place_is_given_back_where_the_request_never_sets_out(bench: Bench) -> None:
    [engine], other = await bounded(bench, 1)
    other.takes = engine.endpoint  # there is none
    bench.context.book = FailingBook()
    assert (await within(bench.ask(post(CHAT)))).status == 500
    assert bench.context.load.in_flight(engine.endpoint) == 0
    assert bench.context.load.counted == 0
