"""`queue.maxRequests` bounds the whole router, however many workers it has and whichever of them a client meets."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.engines import Endpoint
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.relay.board import Board, Rows, SharedCounts
from mica_router.relay.waiting import WaitingRoom
from mica_router.workers.channel import table_message, table_of

CHAT, CODE = ServiceKey("team-a", "chat"), ServiceKey("team-a", "code")
WORKERS = 3


class Waits:
    """A waiter that finds an engine when it is told to."""

    waiting_since = 0.0

    def try_again(self) -> bool:
        return True


def rooms(board: Board) -> list[WaitingRoom]:
    rows, made = Rows(board).assign([CHAT, CODE]), []
    for column in range(WORKERS):
        counts = SharedCounts(board, column=column)
        counts.use(rows)
        made.append(WaitingRoom(counts))
    return made


STEPS = st.lists(st.tuples(st.sampled_from(["join", "leave", "release", "die"]), st.integers(0, WORKERS - 1)), max_size=50)


@given(STEPS, st.integers(1, 4))
def test_as_many_wait_as_may_and_no_more(steps: list[tuple[str, int]], room: int) -> None:
    board = Board.create(workers=WORKERS)
    workers, waiting = rooms(board), [list[Waits]() for _ in range(WORKERS)]
    for what, who in steps:
        line = waiting[who]
        if what == "join":
            waiter, full = Waits(), sum(map(len, waiting)) == room
            assert workers[who].join(CHAT, waiter, room=room) is not full
            line.extend([] if full else [waiter])
        elif what == "leave" and line:
            workers[who].leave(CHAT, line.pop())
        elif what == "release":
            workers[who].release_one(CHAT)
            del line[:1]
        elif what == "die":
            board.clear_column(who)
            workers[who] = rooms(board)[who]
            line.clear()
        assert sum(map(len, waiting)) <= room
        assert [worker.length(CHAT) for worker in workers] == [len(line) for line in waiting]
    os.close(board.file)


def test_one_place_is_had_by_any_worker_and_services_do_not_share_it() -> None:
    board = Board.create(workers=WORKERS)
    workers = rooms(board)
    assert workers[2].join(CHAT, Waits(), room=1)
    assert not workers[0].join(CHAT, Waits(), room=1)
    assert workers[0].join(CODE, Waits(), room=1)
    os.close(board.file)


def test_the_rows_of_lines_travel_with_the_table() -> None:
    endpoint = Endpoint("10.0.0.1", 80)
    table = build_table([Service(key=CHAT, model="chat", engines=())])
    message = table_message(table, {endpoint: 3, CHAT: 4})
    assert message.board == {endpoint: 3, CHAT: 4}
    assert table_of(message).by_key.keys() == {CHAT}
