"""The relay forwards what engines say byte for byte, and what clients say without hop-by-hop headers."""

from __future__ import annotations

import asyncio

import pytest

from .conftest import CHAT, JSON_ANSWER, Bench, EngineRequest, post, settle, within

EVENT = b'data: {"choices":[{"delta":{"content":"h"}}]}\n\n'
SSE_BODY = b"%x\r\n%s\r\n" % (len(EVENT), EVENT) + b"5;ext=1\r\nda\r\n\xff\r\n" + b"E\r\ndata: [DONE]\n\n\r\n" + b"0\r\n\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_plain_answer_arrives_whole(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    answer = await bench.ask(post(CHAT))
    assert answer.status == 200
    assert answer.body == JSON_ANSWER
    assert engine.requests[0].body == CHAT


@pytest.mark.parametrize("piece", [1, 3, 7, 64, 10_000])
async def test_a_chunked_stream_keeps_its_framing_however_it_is_cut(bench: Bench, piece: int) -> None:
    async def stream(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        whole = SSE_HEAD + SSE_BODY
        for start in range(0, len(whole), piece):
            writer.write(whole[start : start + piece])
            await writer.drain()
            await asyncio.sleep(0)

    engine = await bench.engine()
    engine.script = stream
    bench.route(engine)
    answer = await bench.ask(post(CHAT))
    assert answer.head == SSE_HEAD
    assert payload_of_chunks(answer.body) == payload_of_chunks(SSE_BODY)


def payload_of_chunks(body: bytes) -> bytes:
    """What the chunks hold. Where events come in pieces, the router frames whole ones anew."""
    payload = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        payload, body = payload + body[:length], body[length + 2 :]
    return payload


async def test_an_event_is_forwarded_before_the_next_one_exists(bench: Bench) -> None:
    go_on = asyncio.Event()

    async def stream(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + b"b\r\ndata: one\n\n\r\n")
        await go_on.wait()
        writer.write(b"b\r\ndata: two\n\n\r\n0\r\n\r\n")

    engine = await bench.engine()
    engine.script = stream
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    first = await within(client.reader.readuntil(b"one\n\n\r\n"))
    assert first.endswith(b"b\r\ndata: one\n\n\r\n")
    go_on.set()
    assert await within(client.reader.readuntil(b"0\r\n\r\n")) == b"b\r\ndata: two\n\n\r\n0\r\n\r\n"


async def test_hop_by_hop_headers_end_at_the_router(bench: Bench) -> None:
    async def answer(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 Fine\r\nX-Engine: yes\r\nConnection: keep-alive, X-Private\r\nKeep-Alive: timeout=5\r\n"
            b"X-Private: 1\r\nContent-Length: 2\r\n\r\nok"
        )

    engine = await bench.engine()
    engine.script = answer
    bench.route(engine)
    headers = b"Connection: keep-alive, X-Secret\r\nX-Secret: s\r\nTE: trailers\r\nAuthorization: Bearer k\r\nX-Own: 1\r\n"
    reply = await bench.ask(post(CHAT, headers=headers))
    assert reply.head == b"HTTP/1.1 200 Fine\r\nX-Engine: yes\r\nContent-Length: 2\r\n\r\n"
    sent = engine.requests[0].head
    assert b"Authorization: Bearer k\r\n" in sent
    assert b"X-Own: 1\r\n" in sent
    for absent in (b"X-Secret", b"TE:", b"Connection", b"Host: r\r\n"):
        assert absent not in sent
    assert b"Host: %s\r\n" % engine.endpoint.authority.encode() in sent


async def test_a_chunked_request_reaches_the_engine_with_a_length(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (CHAT[:5], CHAT[5:])) + b"0\r\n\r\n"
    head = b"POST /v1/completions?x=1 HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (await bench.ask(head + body)).status == 200
    request = engine.requests[0]
    assert request.body == CHAT
    assert request.head.startswith(b"POST /v1/completions?x=1 HTTP/1.1\r\n")
    assert b"chunked" not in request.head


async def test_the_path_names_the_service_and_the_engine_gets_the_rest(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    body = b'{"model": "adapter-7", "input": "x"}'
    assert (await bench.ask(post(body, path="/models/team-a/chat/v1/embeddings"))).status == 200
    assert engine.requests[0].head.startswith(b"POST /v1/embeddings HTTP/1.1\r\n")
    assert engine.requests[0].body == body


async def test_a_qualified_model_name_is_translated_for_the_engine(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    assert (await bench.ask(post(b'{"n": 1.50, "model": "team-a/chat"}'))).status == 200
    assert engine.requests[0].body == b'{"n":1.50,"model":"chat"}'


async def test_a_response_that_ends_with_the_connection_ends_the_clients_too(bench: Bench) -> None:
    async def until_eof(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall there is")
        writer.close()

    engine = await bench.engine()
    engine.script = until_eof
    bench.route(engine)
    answer = await bench.ask(post(CHAT))
    assert answer.body == b"all there is"
    assert answer.header("connection") == "close"


async def test_an_http_1_0_client_gets_no_chunks(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    answer = await bench.ask(post(CHAT).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert engine.requests[0].head.startswith(b"POST /v1/chat/completions HTTP/1.0\r\n")
    assert answer.header("connection") == "close"


async def test_interim_responses_stay_at_the_router(bench: Bench) -> None:
    async def interim(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    engine = await bench.engine()
    engine.script = interim
    bench.route(engine)
    answer = await bench.ask(post(CHAT))
    assert (answer.status, answer.body) == (200, b"ok")


async def test_a_client_that_expects_100_continue_is_told_to_go_on(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    client = await bench.client()
    head, body = post(CHAT, headers=b"Expect: 100-continue\r\n").split(b"\r\n\r\n")
    client.send(head + b"\r\n\r\n")
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(body)
    assert (await client.response()).status == 200
    assert b"Expect" not in engine.requests[0].head


async def test_engine_errors_pass_through(bench: Bench) -> None:
    async def refuse(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 400 Bad Request\r\nContent-Length: 13\r\n\r\n{"error":{}}\n')

    engine = await bench.engine()
    engine.script = refuse
    bench.route(engine)
    answer = await bench.ask(post(CHAT))
    assert (answer.status, answer.body) == (400, b'{"error":{}}\n')


async def test_connections_are_kept_on_both_sides(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    client = await bench.client()
    for _ in range(3):
        client.send(post(CHAT))
        assert (await client.response()).status == 200
    assert engine.connections == 1
    assert len(engine.requests) == 3


async def test_pipelined_requests_are_answered_in_order(bench: Bench) -> None:
    async def echo(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(request.body), request.body))

    engine = await bench.engine()
    engine.script = echo
    bench.route(engine)
    client = await bench.client()
    bodies = [b'{"model":"chat","n":%d}' % number for number in range(20)]
    client.send(b"".join(post(body) for body in bodies))
    assert [(await client.response()).body for _ in bodies] == bodies


async def test_what_an_engine_says_after_its_response_is_never_forwarded(bench: Bench) -> None:
    surplus = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

    async def talkative(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + surplus)

    engine = await bench.engine()
    engine.script = talkative
    bench.route(engine)
    answer = await bench.ask(post(CHAT))
    assert answer.status == 502
    assert b"evil" not in answer.body


async def test_an_idle_engine_connection_that_talks_is_dropped(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    assert (await bench.ask(post(CHAT))).status == 200
    engine._writers[0].write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    await asyncio.wait_for(engine.requests[0].gone.wait(), 5)
    await settle()
    assert (await bench.ask(post(CHAT))).status == 200
    assert engine.connections == 2


async def test_idle_engine_connections_are_closed_after_a_while(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    await bench.ask(post(CHAT))
    assert bench.context.pool.idle_count(engine.endpoint) == 1
    bench.pass_time(5)
    assert bench.context.pool.idle_count(engine.endpoint) == 0
    await asyncio.wait_for(engine.requests[0].gone.wait(), 5)


async def test_an_offer_to_switch_protocols_is_declined_silently(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    client = await bench.client()
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    client.send(post(CHAT, headers=offer) + post(CHAT))
    assert [(await client.response()).status for _ in range(2)] == [200, 200]
    assert all(b"h2c" not in request.head for request in engine.requests)
