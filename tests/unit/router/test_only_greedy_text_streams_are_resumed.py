"""Which requests a resume may be promised for, and what their engine is asked instead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mica_router.core.continuation import PLAIN, Handling
from mica_router.core.engines import Endpoint, Engine, Kind
from mica_router.core.features import Features
from mica_router.core.resume.book import Book
from mica_router.core.resume.refusals import Refused
from mica_router.core.resume.request import Resumable, judge
from mica_router.core.routes import Service, ServiceKey, build_table

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
GREEDY: dict[str, Any] = {"model": "m", "stream": True, "temperature": 0}
TEXT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}

REFUSED: list[tuple[str, dict[str, Any], Refused]] = [
    (CHAT, {"stream": False}, Refused.NOT_STREAMED),
    (CHAT, {"temperature": None}, Refused.SAMPLED),
    (CHAT, {"temperature": 0.1}, Refused.SAMPLED),
    (CHAT, {"temperature": 0.7, "seed": 5}, Refused.SAMPLED),
    (CHAT, {"temperature": 0.7, "top_k": 1}, Refused.SAMPLED),
    (CHAT, {"n": 2}, Refused.SEVERAL_CHOICES),
    (COMPLETIONS, {"best_of": 3}, Refused.SEVERAL_CHOICES),
    (COMPLETIONS, {"prompt": ["a", "b"]}, Refused.SEVERAL_CHOICES),
    (COMPLETIONS, {"prompt": [[1, 2], [3]]}, Refused.SEVERAL_CHOICES),
    (CHAT, {"presence_penalty": 0.1}, Refused.PENALTY),
    (CHAT, {"frequency_penalty": -0.1}, Refused.PENALTY),
    (CHAT, {"response_format": {"type": "json_object"}}, Refused.STRUCTURED_OUTPUT),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}, Refused.STRUCTURED_OUTPUT),
    (CHAT, {"structured_outputs": {"regex": "a"}}, Refused.STRUCTURED_OUTPUT),
    (CHAT, {"guided_choice": ["a", "b"]}, Refused.STRUCTURED_OUTPUT),
    (CHAT, {"logprobs": True}, Refused.LOGPROBS),
    (CHAT, {"top_logprobs": 2}, Refused.LOGPROBS),
    (COMPLETIONS, {"logprobs": 0}, Refused.LOGPROBS),
    (COMPLETIONS, {"prompt_logprobs": 1}, Refused.LOGPROBS),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}]}, Refused.TOOLS),
    (CHAT, {"functions": [{"name": "f"}]}, Refused.TOOLS),
    (CHAT, {"tool_choice": "required"}, Refused.TOOLS),
    (CHAT, {"include_reasoning": False}, Refused.REASONING),
    (CHAT, {"thinking_token_budget": 9}, Refused.REASONING),
    (COMPLETIONS, {"echo": True}, Refused.ECHO),
    (COMPLETIONS, {"use_beam_search": True}, Refused.BEAM_SEARCH),
    (COMPLETIONS, {"suffix": "end"}, Refused.NOT_TEXT),
    (COMPLETIONS, {"prompt_embeds": "AAAA"}, Refused.NOT_TEXT),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}]}, Refused.NOT_TEXT),
    (CHAT, {"messages": [{"role": "user", "content": [{"image_url": "data:,"}]}]}, Refused.NOT_TEXT),
    (CHAT, {"messages": [{"role": "user", "content": ["x", {"audio_url": "data:,"}]}]}, Refused.NOT_TEXT),
    (CHAT, {"mm_processor_kwargs": {}}, Refused.NOT_TEXT),
    (CHAT, {"kv_transfer_params": {"do": 1}}, Refused.ENGINE_STATE),
    (CHAT, {"repetition_detection": {}}, Refused.ENGINE_STATE),
    (CHAT, {"vllm_xargs": {"a": 1}}, Refused.ENGINE_STATE),
    (CHAT, {"an_option_of_next_year": 1}, Refused.UNKNOWN_FIELD),
    (CHAT, {"stream_options": {"include_obfuscation": True}}, Refused.UNKNOWN_FIELD),
    (CHAT, {"temperature": "cold"}, Refused.MALFORMED),
    (CHAT, {"messages": "Hi", "temperature": 0, "stop": [["a"]]}, Refused.MALFORMED),
    ("/v1/responses", {}, Refused.NOT_TEXT),
]
ELIGIBLE: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {}),
    (CHAT, {"n": 1, "logprobs": False, "top_logprobs": 0, "tools": [], "tool_choice": "none", "presence_penalty": 0}),
    (CHAT, {"tools": None, "response_format": {"type": "text"}, "seed": 7, "top_p": 0.5, "user": "u", "metadata": {}}),
    (CHAT, {"stop": "a", "min_tokens": 3, "repetition_penalty": 1.1, "bad_words": ["x"], "logit_bias": {"1": 2.0}}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}),
    (CHAT, {"messages": [{"role": "user", "content": ["x", {"type": "text", "text": "y"}]}]}),
    (CHAT, {"messages": [{"role": "user", "content": "[1]"}]}),
    (CHAT, {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}]}),
    (CHAT, {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
    (COMPLETIONS, {"prompt": "x"}),
    (COMPLETIONS, {"prompt": ["x"], "echo": False, "best_of": 1, "suffix": None}),
    (COMPLETIONS, {"prompt": [1, 2, 3]}),
    (COMPLETIONS, {"prompt": [[1, 2, 3]]}),
]


def body_of(path: str, change: dict[str, Any]) -> bytes:
    content = TEXT if path == CHAT else {"prompt": "Hi"}
    return json.dumps(GREEDY | content | change).encode()


def handled(path: str, body: bytes, *, kind: Kind = "vllm") -> Handling:
    engine = Engine(endpoint=Endpoint("10.0.0.1", 8000), kind=kind)
    route = build_table([Service(key=ServiceKey("a", "m"), model="m", engines=(engine,))]).listed[0]
    streams = json.loads(body).get("stream") is True
    features = Features(route=route, method=b"POST", path=path, target=path.encode(), headers=[], body=body, streams=streams)
    return Book(each=4000, together=4000).open(features, engine)


@pytest.mark.parametrize(("path", "change", "reason"), REFUSED)
def test_what_a_continuation_could_not_repeat_is_refused_and_left_as_it_is(
    path: str, change: dict[str, Any], reason: Refused
) -> None:
    body = body_of(path, change)
    assert judge(path, body) == reason
    expected = PLAIN if reason is Refused.NOT_STREAMED else Handling(reason=reason)
    assert handled(path, body) == expected


@pytest.mark.parametrize(("path", "change"), ELIGIBLE)
def test_a_greedy_text_stream_is_recorded_and_asks_for_ids(path: str, change: dict[str, Any]) -> None:
    body = body_of(path, change)
    handling = handled(path, body)
    assert handling.recording is not None
    assert handling.translator is None
    assert handling.body is not None
    assert json.loads(handling.body) == json.loads(body) | {"return_token_ids": True}


@pytest.mark.parametrize(("path", "change"), [(path, change) for path, change, _ in REFUSED] + ELIGIBLE)
def test_a_field_without_effect_that_few_clients_send_changes_no_verdict(path: str, change: dict[str, Any]) -> None:
    """The usual fields are read by a reader of their own, which is quicker: what it says is what the one of all fields says."""
    usual, more = judge(path, body_of(path, change)), judge(path, body_of(path, change | {"cache_prompt": True}))
    if isinstance(usual, Resumable):
        assert isinstance(more, Resumable)
        assert (usual.max_tokens, usual.stops, usual.include_usage) == (more.max_tokens, more.stops, more.include_usage)
    else:
        assert more == usual


def test_every_reason_of_the_request_is_shown_above() -> None:
    from_the_request = list(Refused)[: list(Refused).index(Refused.ENGINE_KIND)]
    assert {reason for _, _, reason in REFUSED} == set(from_the_request)


def test_a_name_that_is_spelt_with_escapes_hides_no_image() -> None:
    body = body_of(CHAT, {"messages": [{"role": "user", "content": [IMAGE]}]}).replace(b'"type"', b'"\\u0074ype"')
    assert judge(CHAT, body) == Refused.NOT_TEXT


@pytest.mark.parametrize("told", [True, False, None])
def test_a_client_that_speaks_of_ids_itself_is_not_contradicted_by_a_second_key(told: bool | None) -> None:
    body = body_of(CHAT, {"return_token_ids": told})
    sent = handled(CHAT, body).body or body
    assert sent.count(b"return_token_ids") == 1
    assert json.loads(sent)["return_token_ids"] is True


def test_a_body_that_begins_with_space_is_still_valid() -> None:
    sent = handled(CHAT, b" \n" + body_of(CHAT, {})).body
    assert sent is not None
    assert json.loads(sent)["return_token_ids"] is True


def test_engines_of_unknown_kind_are_asked_for_nothing_they_may_not_know() -> None:
    assert handled(CHAT, body_of(CHAT, {}), kind="other") == Handling(reason="engine_kind")


@pytest.mark.parametrize(
    ("path", "change", "most"),
    [
        (COMPLETIONS, {}, 16),
        (COMPLETIONS, {"max_tokens": None}, None),
        (COMPLETIONS, {"max_tokens": 7}, 7),
        (CHAT, {}, None),
        (CHAT, {"max_tokens": 7}, 7),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": 9}, 9),
    ],
)
def test_the_bound_of_an_answer_is_read_as_the_engine_reads_it(path: str, change: dict[str, Any], most: int | None) -> None:
    request = judge(path, body_of(path, change))
    assert isinstance(request, Resumable)
    assert request.max_tokens == most


def test_a_prompt_that_does_not_fit_the_buffer_is_not_recorded() -> None:
    body = body_of(COMPLETIONS, {"prompt": "x" * 5000})
    assert handled(COMPLETIONS, body) == Handling(reason="buffer_full")
