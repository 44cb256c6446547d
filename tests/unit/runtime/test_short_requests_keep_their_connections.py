"""Short requests: connections are used again, and whoever gives up leaves nothing behind on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from mica_runtime.short_requests import AT_ONCE, NoAnswer, ShortRequests

OK = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """Answers every request with the next of its answers; None says nothing and waits for the client to go."""

    def __init__(self) -> None:
        self.answers: list[bytes | None] = []
        self.connections = 0
        self.requests: list[bytes] = []
        self.ended = asyncio.Event()
        self.handlers: set[asyncio.Task[None] | None] = set()
        self.under_way = self.most = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.handlers.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(size))
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                await asyncio.sleep(0)
                answer = self.answers.pop(0) if self.answers else OK
                if answer is None:
                    await reader.read()
                    break
                writer.write(answer)
                self.under_way -= 1
                if answer != OK:
                    break
        self.ended.set()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, ShortRequests]]:
    made = Server()
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    client = ShortRequests(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/prefix", None)
    yield made, client
    client.close()
    listener.close()
    await asyncio.gather(*(task for task in made.handlers if task is not None))


async def post(client: ShortRequests, deadline: float = 30.0) -> tuple[int, bytes]:
    return await client.request("POST", "/x?timeout=3s", headers={"Accept": "text/json"}, body=b"hello", deadline=deadline)


async def test_one_connection_carries_one_request_after_the_other(server: tuple[Server, ShortRequests]) -> None:
    made, client = server
    assert [await post(client) for _ in range(3)] == [(201, b"{}")] * 3
    assert made.connections == 1
    assert made.requests[0].startswith(b"POST /prefix/x?timeout=3s HTTP/1.1\r\nHost: 127.0.0.1:")
    assert made.requests[0].endswith(b"Accept: text/json\r\nContent-Length: 5\r\n\r\nhello")


async def test_many_at_once_are_bounded(server: tuple[Server, ShortRequests]) -> None:
    made, client = server
    assert len(await asyncio.gather(*(post(client) for _ in range(2 * AT_ONCE)))) == 2 * AT_ONCE
    assert made.most <= AT_ONCE
    assert made.connections <= AT_ONCE


async def test_chunked_answers_and_errors_are_answers(server: tuple[Server, ShortRequests]) -> None:
    made, client = server
    made.answers = [b"HTTP/1.1 409 Conflict\r\ntransfer-encoding: chunked\r\n\r\n3\r\nnot\r\n3\r\n it\r\n0\r\n\r\n"]
    assert await post(client) == (409, b"not it")


async def test_who_gives_up_closes_the_connection(server: tuple[Server, ShortRequests]) -> None:
    made, client = server
    made.answers = [None]
    with pytest.raises(TimeoutError):
        await post(client, deadline=0.05)
    await made.ended.wait()
    assert await post(client) == (201, b"{}")
    assert made.connections == 2


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 201 Created\r\ncontent-length: 9\r\n\r\nhalf", b"SSH-2.0-nothing\r\n\r\n"])
async def test_an_end_without_an_answer_is_said(server: tuple[Server, ShortRequests], answer: bytes) -> None:
    made, client = server
    made.answers = [answer]
    with pytest.raises(NoAnswer):
        await post(client)
    assert await post(client) == (201, b"{}")


async def test_an_answer_that_ends_the_connection_is_taken_and_the_connection_not_used_again(
    server: tuple[Server, ShortRequests],
) -> None:
    made, client = server
    made.answers = [b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"]
    assert await post(client) == (200, b"{}")
    assert await post(client) == (201, b"{}")
    assert made.connections == 2


async def test_nobody_there_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match=r"refused|Connect"):
        await post(ShortRequests("http://127.0.0.1:1", None))
