"""Counts in shared memory are right whatever workers do, and a worker that dies leaves none behind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.engines import Endpoint
from mica_router.exposition import HistogramValue, Snapshot, add
from mica_router.metrics import ModelDemand
from mica_router.relay.board import Board, Rows, SharedCounts

ENGINES = [Endpoint("10.0.0.1", port) for port in range(6)]


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.create(workers=3, rows=4)
    yield made
    os.close(made.file)


steps_of = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2), st.sampled_from(ENGINES)),
        st.tuples(st.just("end"), st.integers(0, 2), st.sampled_from(ENGINES)),
        st.tuples(st.just("table"), st.sets(st.sampled_from(ENGINES)), st.none()),
    ),
    max_size=60,
)


@given(steps_of)
def test_no_count_is_lost_while_engines_come_and_go(steps: list[tuple[str, object, Endpoint]]) -> None:
    board = Board.create(workers=3, rows=4)
    rows, workers = Rows(board), [SharedCounts(board, column=column) for column in range(3)]
    truth: list[Counter[Endpoint]] = [Counter() for _ in workers]
    for what, who, engine in steps:
        if what == "table":
            assert isinstance(who, set)
            assigned = rows.assign(who)
            assert len(set(assigned.values())) == len(assigned)
            for worker in workers:
                worker.use(assigned)
            continue
        assert isinstance(who, int)
        if what == "end" and not truth[who][engine]:
            continue
        by = 1 if what == "add" else -1
        truth[who][engine] += by
        workers[who].add(engine, by)
    for worker, own in zip(workers, truth, strict=True):
        for engine in ENGINES:
            assert own[engine] <= worker.get(engine) <= sum(counts[engine] for counts in truth)
    os.close(board.file)


def test_workers_see_each_others_requests_and_the_dead_have_none(board: Board) -> None:
    rows = Rows(board).assign(ENGINES[:2])
    one, two = SharedCounts(board, column=0), SharedCounts(board, column=2)
    for worker in (one, two):
        worker.use(rows)
    one.add(ENGINES[0], 1)
    two.add(ENGINES[0], 1)
    two.add(ENGINES[1], 1)
    assert [one.get(engine) for engine in ENGINES[:2]] == [2, 1]
    board.clear_column(2)
    assert [one.get(engine) for engine in ENGINES[:2]] == [1, 0]


def test_a_row_with_requests_is_not_given_to_another_engine(board: Board) -> None:
    rows, worker = Rows(board), SharedCounts(board, column=0)
    worker.use(rows.assign(ENGINES[:1]))
    worker.add(ENGINES[0], 1)
    worker.use(rows.assign(ENGINES[1:4]))
    assert [worker.get(engine) for engine in ENGINES[1:4]] == [0, 0, 0]
    worker.add(ENGINES[0], -1)
    assert len(rows.assign(ENGINES[1:5])) == 4


def test_numbers_of_workers_add_up_and_survive_the_way() -> None:
    one = Snapshot(
        counters={"requests": {("chat", "200"): 2}},
        histograms={"queue_seconds": {("chat", "gpu"): HistogramValue([1, 0], 0.5)}},
        demand={"chat": ModelDemand(1, 2, 3.0)},
        connections=4,
    )
    total = add([one, msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Snapshot)])
    assert total.counters == {"requests": {("chat", "200"): 4}}
    assert total.histograms == {"queue_seconds": {("chat", "gpu"): HistogramValue([2, 0], 1.0)}}
    assert total.demand == {"chat": ModelDemand(2, 4, 3.0)}
    assert total.connections == 8
