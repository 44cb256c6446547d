"""What is put into and taken out of a client's body: defaults, the model, private fields. Where requests without a model go."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.amend import with_defaults, with_model, without_private_fields
from mica_router.core.dispatch import Answer, dispatch
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.errors import ApiError
from mica_router.core.features import Features
from mica_router.core.request import RequestLimits, RequestReader
from mica_router.core.routes import RouteTable, Service, ServiceKey, build_table
from mica_router.core.routing import RequestDefaults, Routing
from mica_router.core.target import PRIVATE

CHAT = "/v1/chat/completions"
DEFAULTS = RequestDefaults(max_tokens=200, temperature=0.7)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def table(*, default: bool = True, routing: Routing | None = None) -> RouteTable:
    service = Service(
        key=ServiceKey("default", "chat"),
        model="org/chat",
        engines=(Engine(endpoint=Endpoint("e", 1)),),
        routing=routing or Routing(),
        default=default,
    )
    return build_table([service])


def decided(
    body: bytes, *, path: str = CHAT, method: str = "POST", routes: RouteTable | None = None
) -> Features | Answer | ApiError:
    head = f"{method} {path} HTTP/1.1\r\nHost: r\r\nContent-Length: {len(body)}\r\n\r\n"
    (request,) = RequestReader(RequestLimits()).feed(head.encode() + body)
    return dispatch(request, routes or table())


def forwarded(body: bytes, *, path: str = CHAT, method: str = "POST", routes: RouteTable | None = None) -> Features:
    found = decided(body, path=path, method=method, routes=routes)
    assert isinstance(found, Features), found
    return found


@pytest.mark.parametrize(
    ("body", "result", "limit"),
    [
        (b"{}", b'{"temperature":0.7,"max_tokens":200}', 200),
        (b' { "a" : 1.50 }', b' {"temperature":0.7,"max_tokens":200, "a" : 1.50 }', 200),
        (b'{"max_tokens":5}', b'{"temperature":0.7,"max_tokens":5}', None),
        (b'{"max_completion_tokens":5}', b'{"temperature":0.7,"max_completion_tokens":5}', None),
        (b'{"max_tokens":null,"temperature":0}', b'{"max_tokens":null,"temperature":0}', None),
    ],
)
def test_defaults_fill_in_what_is_missing_and_keep_every_other_byte(body: bytes, result: bytes, limit: int | None) -> None:
    assert with_defaults(body, CHAT, DEFAULTS) == (result, limit)
    assert with_defaults(body, "/v1/embeddings", DEFAULTS) == (body, None)
    assert with_defaults(body, CHAT, RequestDefaults()) == (body, None)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.sampled_from(["", " ", "\n\t "]))
def test_amended_objects_are_the_same_objects_and_more(fields: dict[str, object], blank: str) -> None:
    body = blank + json.dumps(fields) + blank
    amended, _ = with_defaults(with_model(body.encode(), model='m"'), CHAT, DEFAULTS)
    assert json.loads(amended) == {"temperature": 0.7, "max_tokens": 200, "model": 'm"'} | fields
    private = {name: [1] for name in PRIVATE}
    assert json.loads(without_private_fields(json.dumps(private | fields).encode())) == fields


def test_private_fields_never_reach_an_engine() -> None:
    body = {"model": "org/chat", "num_decode_tokens": 1, "request_id_inference": "x", "generated_text": "y", "seed": 7}
    sent = json.dumps(body | {"prefill_then_swapout": False}).encode()
    escaped = sent.replace(b"num_decode", rb"n\u0075m_decode")
    for text in (sent, escaped, b"  " + sent):
        for path in (CHAT, f"/models/default/chat{CHAT}"):
            assert json.loads(forwarded(text, path=path).body) == {"model": "org/chat", "seed": 7}


@pytest.mark.parametrize(
    "trick", [b'{"num_decode_tokens":1,"x":NaN}', '{"num_decode_tokens":1}'.encode("utf-16"), b"\xef\xbb\xbf{}"]
)
def test_what_only_a_forgiving_parser_reads_is_refused_on_paths_for_json(trick: bytes) -> None:
    by_path = f"/models/default/chat{CHAT}"
    for path in (CHAT, by_path, f"{by_path}/", by_path.replace("completions", "%63ompletions")):
        refused = decided(trick, path=path)
        assert isinstance(refused, ApiError)
        assert refused.code == "malformed_json"


def test_a_body_without_private_fields_and_defaults_stays_as_it_is() -> None:
    body = b'{ "model" : "org/chat", "x": 1.0 }'
    assert forwarded(body).body == body


def test_a_request_without_a_model_means_the_default_one() -> None:
    found = forwarded(b'{"messages":[]}', routes=table(routing=Routing(defaults=DEFAULTS)))
    assert found.body == b'{"temperature":0.7,"max_tokens":200,"model":"org/chat","messages":[]}'
    assert (found.route.public_name, found.max_tokens) == ("org/chat", 200)
    assert json.loads(forwarded(b'{"model":""}').body) == {"model": "org/chat"}
    refused = decided(b"{}", routes=table(default=False))
    assert isinstance(refused, ApiError)
    assert refused.code == "model_required"


def test_reads_of_engines_go_to_the_default_model() -> None:
    assert forwarded(b"", path="/health", method="GET").target == b"/health"
    assert isinstance(decided(b"", path="/v1/models", method="GET"), Answer)
    for routes, path in ((table(default=False), "/health"), (table(), "/metrics")):
        refused = decided(b"", path=path, method="GET", routes=routes)
        assert isinstance(refused, ApiError)
        assert refused.code == "path_not_found"


def test_moving_kv_caches_is_refused_in_words() -> None:
    for path in ("/v1/chat/pd_disagg", "/models/default/chat/v1/chat/pd_disagg"):
        refused = decided(b'{"model":"org/chat","max_tokens":1}', path=path)
        assert isinstance(refused, ApiError)
        assert (refused.status, refused.code) == (400, "pd_disagg_unsupported")
        assert "/v1/chat/completions" in refused.message
