"""Requests that the router refuses: status, OpenAI error body, and what becomes of the connection."""

from __future__ import annotations

import json

import pytest

from mica_router.core.routing import QueueLimits, Routing

from .conftest import CHAT, Bench, RawResponse, post, settle


def error_of(answer: RawResponse) -> dict[str, object]:
    assert answer.header("content-type") == "application/json"
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error  # type: ignore[no-any-return]


async def test_an_unknown_model_is_404_and_names_it(bench: Bench) -> None:
    answer = await bench.ask(post(b'{"model": "gpt-9"}'))
    assert answer.status == 404
    error = error_of(answer)
    assert (error["code"], error["type"], error["param"]) == ("model_not_found", "invalid_request_error", "model")
    assert "gpt-9" in str(error["message"])


async def test_an_unknown_service_in_the_path_is_404(bench: Bench) -> None:
    answer = await bench.ask(post(CHAT, path="/models/team-a/nothing/v1/chat/completions"))
    assert (answer.status, error_of(answer)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed_json"),
        (b"{", "malformed_json"),
        (b"[]", "malformed_json"),
        (b'{"model": "a"} trailing', "malformed_json"),
        (b'{"a":' + b"[" * 100_000, "malformed_json"),
        (b'{"model": "\xff"}', "malformed_json"),
        (b"{}", "model_required"),
        (b'{"model": ""}', "model_required"),
        (b'{"model": 7}', "model_invalid"),
        (b'{"model": null}', "model_invalid"),
    ],
)
async def test_a_body_without_a_usable_model_is_400(bench: Bench, body: bytes, code: str) -> None:
    client = await bench.client()
    client.send(post(body))
    answer = await client.response()
    assert (answer.status, error_of(answer)["code"]) == (400, code)
    client.send(b"GET /v1/models HTTP/1.1\r\nHost: r\r\n\r\n")
    assert (await client.response()).status == 200


async def test_a_model_without_engines_and_without_a_queue_is_503_with_retry_after(bench: Bench) -> None:
    bench.route(routing=Routing(queue=QueueLimits(max_requests=0)))
    answer = await bench.ask(post(CHAT))
    assert answer.status == 503
    assert answer.header("retry-after") == "2"
    error = error_of(answer)
    assert (error["code"], error["type"]) == ("no_ready_engine", "server_error")


async def test_a_declared_length_over_the_limit_is_refused_before_the_body(bench: Bench) -> None:
    client = await bench.client()
    client.send(b"POST /v1/x HTTP/1.1\r\nHost: r\r\nContent-Length: 999999999999\r\n\r\n")
    answer = await client.response()
    assert (answer.status, error_of(answer)["code"]) == (413, "body_too_large")
    assert answer.header("connection") == "close"


async def test_a_chunked_body_over_the_limit_is_413_even_while_it_is_still_being_sent(bench: Bench) -> None:
    client = await bench.client()
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    client.send(b"POST /v1/x HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 16)
    answer = await client.response()
    assert answer.status == 413


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: r\r\nX: " + b"a" * 8000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: r\r\nX: " + b"a" * 8000,
        b"GET /" + b"a" * 8000,
        b"GET /v1/models HTTP/1.1\r\nHost: r\r\n" + b"X: y\r\n" * 2000,
    ],
)
async def test_a_head_over_the_limit_is_431(bench: Bench, request_bytes: bytes) -> None:
    answer = await bench.ask(request_bytes)
    assert (answer.status, error_of(answer)["code"]) == (431, "headers_too_large")


async def test_a_slow_head_is_408_however_it_trickles(bench: Bench) -> None:
    client = await bench.client()
    for byte in b"GET /v1":
        client.send(bytes([byte]))
        await settle()
        bench.pass_time(1.3)
    bench.pass_time(3)
    answer = await client.response()
    assert (answer.status, error_of(answer)["code"]) == (408, "request_timeout")


async def test_a_slow_body_is_408(bench: Bench) -> None:
    client = await bench.client()
    client.send(post(CHAT)[:-5])
    await settle()
    bench.pass_time(59)
    client.send(b" ")
    await settle()
    bench.pass_time(2)
    assert (await client.response()).status == 408


async def test_an_idle_client_is_closed_without_a_word(bench: Bench) -> None:
    client = await bench.client()
    client.send(b"GET /v1/models HTTP/1.1\r\nHost: r\r\n\r\n")
    await client.response()
    bench.pass_time(76)
    assert await client.ended() == b""


@pytest.mark.parametrize("path", ["/", "/health", "/v1/unknown", "/models/a", "/models/a/b"])
async def test_paths_that_lead_nowhere_are_404(bench: Bench, path: str) -> None:
    answer = await bench.ask(f"GET {path} HTTP/1.1\r\nHost: r\r\n\r\n".encode())
    assert (answer.status, error_of(answer)["code"]) == (404, "path_not_found")


ENGINE_ONLY = [
    "/slots",
    "/props",
    "/metrics",
    "/v1",
    "//v1/chat/completions",
    "/v1/../slots",
    "/v1/%2e%2E/slots",
    "/v1/..%2fslots",
    "/v1/..%5cslots",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter/",
    "/v1/%75nload_lora_adapter",
    "/tokenize/../slots",
]


@pytest.mark.parametrize("path", ENGINE_ONLY)
async def test_an_engines_administration_is_not_for_clients(bench: Bench, path: str) -> None:
    engine = await bench.engine()
    bench.route(engine)
    client = await bench.client()
    for request in (
        post(CHAT, path=path),
        post(CHAT, path=f"/models/team-a/chat{path}"),
        f"GET /models/team-a/chat{path}?x=/v1/ HTTP/1.1\r\nHost: r\r\n\r\n".encode(),
    ):
        client.send(request)
        answer = await client.response()
        error = error_of(answer)
        assert (answer.status, error["code"]) == (404, "path_not_forwarded")
        assert f"'{path}'" in str(error["message"])
    assert engine.requests == []


@pytest.mark.parametrize("path", ["/v1/x", "/v1/files/a..b", "/tokenize", "/detokenize", "/health"])
async def test_inference_is_forwarded_by_model_and_by_path(bench: Bench, path: str) -> None:
    engine = await bench.engine()
    bench.route(engine)
    assert (await bench.ask(post(CHAT, path=path))).status == 200
    assert (await bench.ask(post(CHAT, path=f"/models/team-a/chat{path}"))).status == 200
    assert [request.head.split(b" ")[1].decode() for request in engine.requests] == [path] * 2


SMUGGLING = {
    "length beside transfer coding": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "transfer coding beside length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 4\r\n",
    "two different lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n",
    "list of lengths": b"Content-Length: 4, 4\r\n",
    "signed length": b"Content-Length: +4\r\n",
    "negative length": b"Content-Length: -4\r\n",
    "hexadecimal length": b"Content-Length: 0x4\r\n",
    "empty length": b"Content-Length:\r\n",
    "space before the colon": b"Content-Length : 4\r\n",
    "folded header": b"X: a\r\n b\r\nContent-Length: 4\r\n",
    "unknown transfer coding": b"Transfer-Encoding: gzip\r\n",
    "almost chunked": b"Transfer-Encoding: xchunked\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n",
    "two transfer codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "vertical tab": b"Transfer-Encoding: \x0bchunked\r\n",
    "NUL in a value": b"X: a\x00b\r\nContent-Length: 4\r\n",
    "bare CR in a value": b"X: a\rb\r\nContent-Length: 4\r\n",
    "bare LF between headers": b"X: a\nContent-Length: 4\r\n",
    "a nominated framing header": b"Connection: content-length\r\nContent-Length: 4\r\n",
    "two hosts": b"Host: other\r\nContent-Length: 4\r\n",
}


@pytest.mark.parametrize("headers", SMUGGLING.values(), ids=SMUGGLING.keys())
async def test_ambiguous_framing_is_refused_and_the_connection_ends(bench: Bench, headers: bytes) -> None:
    engine = await bench.engine()
    bench.route(engine)
    client = await bench.client()
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: evil\r\n\r\n"
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\n" + headers + b"\r\n0\r\n\r\n" + smuggled)
    answer = await client.response()
    assert (answer.status, error_of(answer)["code"]) == (400, "malformed_http")
    assert answer.header("connection") == "close"
    assert await client.ended() == b""
    assert engine.requests == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /v1/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"GET /v1/models\r\n\r\n",
        b"CONNECT host:443 HTTP/1.1\r\nHost: r\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["coding in 1.0", "no host", "0.9", "connect", "http2", "tls"],
)
async def test_what_is_not_http_1_1_is_refused(bench: Bench, request_bytes: bytes) -> None:
    client = await bench.client()
    client.send(request_bytes)
    assert (await client.response()).status == 400
    assert await client.ended() == b""


async def test_refusals_are_counted_by_status(bench: Bench) -> None:
    await bench.ask(post(b'{"model": "gpt-9"}'))
    await bench.ask(post(b"{"))
    assert bench.context.metrics.requests == {("", 404): 1, ("", 400): 1}


async def test_a_refusal_of_head_has_no_body_and_keeps_the_connection_in_step(bench: Bench) -> None:
    client = await bench.client()
    client.send(b"HEAD /nothing HTTP/1.1\r\nHost: r\r\n\r\nHEAD /v1/models HTTP/1.1\r\nHost: r\r\n\r\n")
    assert (await client.response(bodyless=True)).status == 404
    assert (await client.response(bodyless=True)).status == 200
    client.send(b"GET /v1/models HTTP/1.1\r\nHost: r\r\n\r\n")
    answer = await client.response()
    assert json.loads(answer.body) == {"object": "list", "data": []}
