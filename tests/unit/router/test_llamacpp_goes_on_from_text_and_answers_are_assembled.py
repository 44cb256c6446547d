"""llama.cpp tells no token ids: its streams go on from their text, best effort, and its whole answers are put together."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mica_router.core.continuation import Continuation, NotResumed, Reply, TranslationFailed
from mica_router.core.resume.book import Book
from mica_router.core.resume.text_only import NOTICE
from mica_router.core.resume.whole import assembles

from .engines.llamacpp_dialect import LlamacppDialect
from .engines.offline import answer_of
from .engines.rig import CHAT, COMPLETIONS, ENGINE, PROMPTS, Rig, features, payload_of, request, told
from .engines.toy_engine import EngineState
from .engines.toy_model import ToyModel

LLAMA = replace(ENGINE, kind="llamacpp")


class LlamaRig(Rig):
    """Two llama.cpp engines."""

    engine = LLAMA


def rig_of(path: str, seed: int = 0, **options: Any) -> LlamaRig:
    rig = LlamaRig(path, request(path, **options))
    rig.first, rig.second = (LlamacppDialect(EngineState(model=ToyModel(seed=seed))) for _ in range(2))
    return rig


def common_prefix(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_the_text_goes_on_validly_and_often_exactly(path: str) -> None:
    exact = total = 0
    for seed in range(4):
        rig = rig_of(path, seed, ignore_eos=True, stream_options={"include_usage": True})
        frames = await rig.undisturbed()
        whole = told(payload_of(frames))
        for cut in range(2, len(frames) - 3, 7):
            recording = rig.recording()
            for frame in frames[:cut]:
                recording.heard(frame)
            before, rest = told(payload_of(frames[:cut])), await rig.go_on(recording)
            assert rest.startswith(NOTICE)
            after = told(payload_of(frames[:cut]) + rest)
            assert after.text.startswith(before.text)
            assert after.identities == whole.identities
            assert after.finish == [("length", None)]
            assert after.ended
            exact += after.text == whole.text
            total += 1
    assert 0 < exact <= total


async def test_its_counts_are_those_of_both_engines() -> None:
    rig = rig_of(COMPLETIONS, ignore_eos=True)
    frames = await rig.undisturbed()
    recording = rig.recording()
    for frame in frames[:10]:
        recording.heard(frame)
    rest = await rig.go_on(recording)
    usage = next(json.loads(block[6:])["usage"] for block in rest.split(b"\n\n") if b'"usage"' in block)
    assert usage["completion_tokens"] == 60
    assert usage["total_tokens"] == usage["prompt_tokens"] + 60


async def test_a_stop_string_that_had_begun_is_found() -> None:
    rig = rig_of(COMPLETIONS, ignore_eos=True)
    text = told(payload_of(await rig.undisturbed())).text
    stop = next(text[at : at + 6] for at in range(20, 60) if text.index(text[at : at + 6]) == at and text[at : at + 6].isascii())
    rig.body["stop"] = [stop]
    frames = await rig.undisturbed()
    whole = told(payload_of(frames))
    for cut in range(1, len(frames) - 2, 3):
        recording = rig.recording()
        for frame in frames[:cut]:
            recording.heard(frame)
        after = told(payload_of(frames[:cut]) + await rig.go_on(recording))
        assert stop not in after.text
        assert after.text == whole.text or common_prefix(after.text, whole.text) >= len(told(payload_of(frames[:cut])).text)


async def test_without_a_tokenizer_it_is_refused() -> None:
    rig = rig_of(CHAT)
    recording = rig.recording()
    for frame in (await rig.undisturbed())[:5]:
        recording.heard(frame)

    async def unknown(path: str, body: bytes) -> Reply:
        return Reply(404, b"{}")

    assert await recording.resume(LLAMA, unknown) == NotResumed("no_tokenizer")


async def test_only_another_llamacpp_goes_on() -> None:
    rig = rig_of(CHAT)
    recording = rig.recording()
    for frame in (await rig.undisturbed())[:5]:
        recording.heard(frame)
    outcome = await recording.resume(LLAMA, rig.call)
    assert isinstance(outcome, Continuation)
    assert outcome.accepts(LLAMA)
    assert not outcome.accepts(ENGINE)


# Whole answers.


async def assembled(path: str, body: dict[str, Any], *, cut: int | None = None) -> tuple[int, dict[str, Any]]:
    engine = LlamacppDialect(EngineState())
    handling = Book(each=1000, together=1 << 20).open(replace_streams(path, body), LLAMA)
    assert handling.translator is not None
    assert handling.body is not None
    translator = handling.translator
    _, frames = await answer_of(engine, path, handling.body)
    assert translator.head(200, [(b"Server", b"llama.cpp"), (b"Content-Type", b"text/event-stream")]) is None
    payload = payload_of(frames)
    for at in range(0, len(payload) if cut is None else cut, 11):
        assert translator.feed(payload[at : at + 11]) == b""
        assert translator.late_head() is None
    out = translator.finish()
    head = translator.late_head()
    assert head is not None
    assert head.length == len(out)
    assert head.headers == [(b"Content-Type", b"application/json; charset=utf-8"), (b"Server", b"llama.cpp")]
    return head.status, json.loads(out)


def replace_streams(path: str, body: dict[str, Any]) -> Any:
    return features(path, body)._replace(streams=bool(body.get("stream")))


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("options", [{}, {"temperature": 0, "max_tokens": 50, "stop": ["e"]}, {"stream": False, "n": 1}])
async def test_an_assembled_answer_is_the_engines_own(path: str, options: dict[str, Any]) -> None:
    body = {"model": "toy", "temperature": 0, "max_tokens": 30} | PROMPTS[path] | options
    _, (own, *_) = await answer_of(LlamacppDialect(EngineState()), path, body)
    assert await assembled(path, body) == (200, json.loads(own))


async def test_half_an_answer_is_no_answer() -> None:
    with pytest.raises(TranslationFailed, match="without a finish reason"):
        await assembled(CHAT, {"model": "toy", "temperature": 0, "max_tokens": 30} | PROMPTS[CHAT], cut=990)


def translator_of(path: str) -> Any:
    translator = Book(each=1, together=1 << 20).open(replace_streams(path, {"model": "toy"} | PROMPTS[path]), LLAMA).translator
    assert translator is not None
    translator.head(200, [])
    return translator


def test_an_error_in_the_stream_becomes_an_error() -> None:
    translator = translator_of(CHAT)
    translator.feed(b'data: {"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}\n\n')
    assert json.loads(translator.finish()) == {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}
    assert translator.late_head().status == 400


def test_reasoning_and_logprobs_are_put_together_too() -> None:
    translator = translator_of(CHAT)
    for delta, token in (({"role": "assistant", "content": None}, None), ({"reasoning_content": "hm"}, 1), ({"content": "a"}, 2)):
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        choice |= {"logprobs": {"content": [{"id": token}]}} if token else {}
        translator.feed(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
    translator.feed(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    choice = json.loads(translator.finish())["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    assert choice["logprobs"] == {"content": [{"id": 1}, {"id": 2}]}
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "said", [b"data: {half\n\n", b"data: []\n\n", b'data: {"choices":[{"delta":[]}]}\n\n', b'data: {"choices":5}\n\n']
)
def test_nonsense_is_no_answer(said: bytes) -> None:
    with pytest.raises(TranslationFailed):
        translator_of(CHAT).feed(said)


@pytest.mark.parametrize(
    "options",
    [
        {"tools": []},
        {"n": 2},
        {"prompt": ["a", "b"]},
        {"prompt": [[1], [2]]},
        {"timings_per_token": True},
        {"an_option_of_next_year": 1},
        {"stream": True},
    ],
)
def test_answers_of_another_shape_are_left_to_the_engine(options: dict[str, Any]) -> None:
    assert not assembles(replace_streams(CHAT, {"model": "toy"} | PROMPTS[CHAT] | options))


def test_a_list_of_token_ids_is_one_prompt() -> None:
    assert assembles(replace_streams(COMPLETIONS, {"model": "toy", "prompt": [1, 2, 3]}))
