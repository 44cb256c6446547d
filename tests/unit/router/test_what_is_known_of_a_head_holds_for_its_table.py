"""Requests whose head was seen before are decided as if it had not been."""

from __future__ import annotations

import gc
import json
import time
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.dispatch import dispatch
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.errors import ApiError
from mica_router.core.features import Features
from mica_router.core.outgoing import forwarded_of
from mica_router.core.request import Request, RequestLimits, RequestReader
from mica_router.core.routes import RouteTable, Service, ServiceKey, build_table
from mica_router.core.routing import Routing
from mica_router.metrics import RouterMetrics
from mica_router.relay.context import RelayContext
from mica_router.relay.load import Load
from mica_router.relay.pool import Pool
from mica_router.relay.server import RelayServer

KEY = "sk-0123456789012345678901"


def table(*keys: str, model: str = "m", aliases: tuple[str, ...] = ()) -> RouteTable:
    routing = Routing(api_keys=tuple(sha256(key.encode()).digest() for key in keys))
    engines = (Engine(endpoint=Endpoint("e", 80), kind="vllm"),)
    service = Service(key=ServiceKey("d", "s"), model=model, engines=engines, routing=routing, aliases=aliases)
    return build_table([service])


def read(body: bytes, *, path: str = "/v1/chat/completions", key: str = KEY, more: str = "") -> Request:
    """`more`: lines of the head."""
    length = f"Content-Length: {len(body)}\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {key}\r\n{more}{length}\r\n"
    (request,) = RequestReader(RequestLimits()).feed(head.encode() + body)
    return request


def body_of(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": []} | fields).encode()


def test_a_key_that_is_taken_away_is_refused_from_the_next_request_on() -> None:
    with_key, without = table(KEY), table("sk-another-0123456789012")
    for _ in range(3):
        assert isinstance(dispatch(read(body_of()), with_key), Features)
    for _ in range(3):
        refused = dispatch(read(body_of()), without)
        assert isinstance(refused, ApiError)
        assert refused.status == 401
    assert isinstance(dispatch(read(body_of()), with_key), Features)


def test_a_plan_is_kept_for_what_passes_unchanged_only() -> None:
    known = table(KEY, aliases=("alias",))
    for _ in range(3):
        plain, renamed = dispatch(read(body_of()), known), dispatch(read(body_of(model="alias")), known)
        private = dispatch(read(body_of(num_decode_tokens=1)), known)
        assert isinstance(plain, Features)
        assert isinstance(renamed, Features)
        assert isinstance(private, Features)
        assert plain.plan is not None
        assert (renamed.plan, private.plan) == (None, None)
        assert json.loads(renamed.body)["model"] == "m"
        assert b"num_decode_tokens" not in private.body


def test_a_table_that_was_replaced_is_gone_though_a_head_that_came_once_was_decided_by_it() -> None:
    clock = time.monotonic
    server = RelayServer(RelayContext(clock=clock, load=Load(clock), metrics=RouterMetrics(), pool=Pool(clock=clock)))
    gc.collect()
    before = sum(type(found) is RouteTable for found in gc.get_objects())
    for number in range(20):
        server.publish(now := table(KEY))
        assert isinstance(dispatch(read(body_of(), more=f"X-Turn: {number}\r\n"), now), Features)
    gc.collect()
    assert sum(type(found) is RouteTable for found in gc.get_objects()) <= before + 1


fields = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["m", "alias", "d/s", "nobody", "", 3]),
        "stream": st.sampled_from([True, False, None, "yes"]),
        "max_tokens": st.sampled_from([1, 2.5, None, "x"]),
        "max_completion_tokens": st.sampled_from([7, None, True]),
        "generated_text": st.just("t"),
    },
)
paths = st.sampled_from(
    ["/v1/chat/completions", "/v1/completions", "/models/d/s/v1/chat/completions", "/v1/audio/speech", "/v1/x"]
)


@given(st.lists(st.tuples(fields, paths), min_size=1, max_size=6))
def test_what_was_seen_before_decides_nothing(asked: list[tuple[dict[str, object], str]]) -> None:
    known = table(KEY, aliases=("alias",))
    for content, path in asked * 2:
        body = json.dumps(content).ljust(140).encode()
        request = read(body, path=path)
        found, fresh = dispatch(request, known), dispatch(request._replace(notes=None), known)
        if isinstance(found, Features) and isinstance(fresh, Features):
            assert found._replace(plan=None) == fresh
        else:
            assert found == fresh


ACCEPTS = "Accept-Encoding: gzip\r\nX-Api-Key: another\r\nX-Kept: 1\r\n"


@pytest.mark.parametrize("hides_keys", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_what_engines_get_of_a_head_is_made_once(path: str, hides_keys: bool) -> None:
    first, again = (forwarded_of(read(body_of(), path=path, more=ACCEPTS), path=path, hides_keys=hides_keys) for _ in range(2))
    assert again is first


@given(st.lists(st.tuples(st.sampled_from(["/v1/chat/completions", "/v1/embeddings"]), st.booleans()), max_size=6))
def test_who_is_to_get_the_keys_and_who_is_not_get_no_lines_of_each_other(asked: list[tuple[str, bool]]) -> None:
    request = read(body_of(), more=ACCEPTS)
    for path, hides_keys in asked:
        lines = forwarded_of(request, path=path, hides_keys=hides_keys)
        assert lines == forwarded_of(request._replace(notes=None), path=path, hides_keys=hides_keys)
        names = [line.partition(b":")[0] for line in lines.splitlines()]
        coded = [b"Accept-Encoding"] if path == "/v1/embeddings" else []
        keys = [] if hides_keys else [b"Authorization"], [] if hides_keys else [b"X-Api-Key"]
        assert names == [*keys[0], *coded, *keys[1], b"X-Kept"]
