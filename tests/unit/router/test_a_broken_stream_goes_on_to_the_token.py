"""Streams cut anywhere, continued by another engine: every event that the client gets, against the undisturbed answer.

No sockets here: the engines' bytes are fed to the recording and to the splice directly, so that hundreds of cuts cost seconds.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mica_router.core.continuation import Continuation, Ended, NotResumed, Reply, TranslationFailed
from mica_router.core.engines import Engine
from mica_router.core.resume.book import Book
from mica_router.core.resume.recording import Shelf, Tape

from .engines.rig import CHAT, COMPLETIONS, ENGINE, Rig, payload_of, request
from .engines.toy_model import ToyModel, byte_id, encode

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "usage": {"stream_options": {"include_usage": True}},
    "long": {"ignore_eos": True, "max_tokens": 90},
    "with ids": {"return_token_ids": True, "ignore_eos": True},
    "min_tokens": {"min_tokens": 50, "stream_options": {"include_usage": True}},
    "repetition penalty": {"repetition_penalty": 1.2, "logit_bias": {"5": 1.0}},
    "bad words": {"bad_words": ["the", " sea", "e a"], "ignore_eos": True},
    "nothing hidden": {"skip_special_tokens": False},
    "continuous usage": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "to the end of the context": {"max_tokens": None, "stream_options": {"include_usage": True}},
}

ADAPTED: dict[str, dict[str, Any]] = {name: OPTIONS[name] for name in ("plain", "usage", "bad words")}


@pytest.mark.parametrize("merge", [(1,), (4,), (1, 3, 2)], ids=["one id", "four ids", "mixed"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
async def test_the_client_cannot_tell_where_it_was_cut(path: str, options: dict[str, Any], merge: tuple[int, ...]) -> None:
    rig = Rig(path, request(path, **options))
    rig.first.state.merge = rig.second.state.merge = merge
    rig.first.state.max_model_len = rig.second.state.max_model_len = 130
    frames = await rig.undisturbed()
    whole = rig.told(payload_of(frames))
    for cut in range(0, len(frames), 1 if options is OPTIONS["usage"] else 3):
        recording = rig.recording()
        for frame in frames[:cut]:
            recording.heard(frame)
        recording.heard(frames[cut][: len(frames[cut]) // 2])
        rest = await rig.go_on(recording)
        assert rig.told(payload_of(frames[:cut]) + rest) == whole, cut
        recording.close()
    assert rig.book.shelf.held == 0


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
async def test_several_deaths_in_a_row_do_not_show_either(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([CHAT, COMPLETIONS]))
    options = data.draw(st.sampled_from(list(OPTIONS.values())))
    rig = Rig(path, request(path, **options) | {"stream_options": {"include_usage": True}})
    model = ToyModel(seed=data.draw(st.integers(0, 1000)))
    for engine in (rig.first, rig.second):
        engine.state.model, engine.state.max_model_len = model, 160
        engine.state.merge = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    frames = await rig.undisturbed()
    whole = rig.told(payload_of(frames))
    cut = data.draw(st.integers(0, len(frames) - 1))
    recording = rig.recording()
    for frame in frames[:cut]:
        recording.heard(frame)
    out = payload_of(frames[:cut])
    for deaths in data.draw(st.lists(st.integers(0, 40), max_size=4)):
        if not rig.told(out).ended:
            out += await rig.go_on(recording, die_after=deaths)
    if not rig.told(out).ended:
        out += await rig.go_on(recording)
    heard = rig.told(out)
    # An engine that died before its first event has numbered an answer that nobody saw.
    assert len(heard.identities) == 1
    assert replace(heard, identities=whole.identities) == whole


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
async def test_an_adapters_stream_goes_on_as_that_adapters(data: st.DataObject) -> None:
    """An adapter has weights of its own: asked for by another name, an engine would tell another text."""
    path = data.draw(st.sampled_from([CHAT, COMPLETIONS]))
    rig = Rig(path, request(path) | {"model": "sql", "ignore_eos": True} | data.draw(st.sampled_from(list(ADAPTED.values()))))
    base = Rig(path, rig.body | {"model": "toy"})
    rig.first.state.adapters = rig.second.state.adapters = ("sql", "poems")
    merge = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    rig.first.state.merge = rig.second.state.merge = merge
    frames = await rig.undisturbed()
    whole = rig.told(payload_of(frames))
    assert whole.text != base.told(payload_of(await base.undisturbed())).text
    asked: list[dict[str, Any]] = []
    answer = rig.call

    async def noting(path: str, body: bytes) -> Reply:
        asked.append(json.loads(body))
        return await answer(path, body)

    rig.call = noting  # type: ignore[method-assign]
    recording = rig.recording()
    cut = data.draw(st.integers(1, len(frames) - 4))
    for frame in frames[:cut]:
        recording.heard(frame)
    assert rig.told(payload_of(frames[:cut]) + await rig.go_on(recording)) == whole
    assert {body["model"] for body in asked + rig.asked} == {"sql"}


@given(data=st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
async def test_stop_strings_across_the_seam_end_the_answer_where_they_would_have(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([CHAT, COMPLETIONS]))
    model = ToyModel(seed=data.draw(st.integers(0, 300)), lifetime=10_000)
    rig = Rig(path, request(path))
    for engine in (rig.first, rig.second):
        engine.state.model, engine.state.merge = model, tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    text = rig.told(payload_of(await rig.undisturbed())).text
    start = data.draw(st.integers(0, max(0, len(text) - 9)))
    stop = text[start : start + data.draw(st.integers(1, 9))]
    rig.body |= {
        "stop": [stop, "never seen anywhere"] if data.draw(st.booleans()) else stop,
        "min_tokens": data.draw(st.sampled_from([0, 0, 5, 30])),
        "include_stop_str_in_output": data.draw(st.booleans()),
        "stream_options": {"include_usage": True},
    }
    frames = await rig.undisturbed()
    whole = rig.told(payload_of(frames))
    cut = data.draw(st.integers(0, len(frames) - 1))
    recording = rig.recording()
    for frame in frames[:cut]:
        recording.heard(frame)
    assert rig.told(payload_of(frames[:cut]) + await rig.go_on(recording)) == whole


async def test_a_prompt_that_ends_inside_a_character_is_not_leaked_twice() -> None:
    rig = Rig(COMPLETIONS, request(COMPLETIONS, prompt=[*encode("Vorher "), byte_id(0xC3)], ignore_eos=True))
    frames = await rig.undisturbed()
    whole = rig.told(payload_of(frames))
    assert whole.text.startswith("Vorher")
    for cut in range(len(frames)):
        recording = rig.recording()
        for frame in frames[:cut]:
            recording.heard(frame)
        assert rig.told(payload_of(frames[:cut]) + await rig.go_on(recording)) == whole


async def test_without_detokenize_only_single_id_events_are_trusted() -> None:
    rig = Rig(COMPLETIONS, request(COMPLETIONS, ignore_eos=True))
    rig.first.state.merge = rig.second.state.merge = (1, 3, 2)
    frames = await rig.undisturbed()
    whole = rig.told(payload_of(frames))

    async def deaf(path: str, body: bytes) -> Reply:
        raise TimeoutError

    rig.call = deaf  # type: ignore[method-assign]
    for cut in range(len(frames)):
        recording = rig.recording()
        for frame in frames[:cut]:
            recording.heard(frame)
        assert rig.told(payload_of(frames[:cut]) + await rig.go_on(recording)) == whole


async def test_little_is_generated_again() -> None:
    rig = Rig(CHAT, request(CHAT, ignore_eos=True, max_tokens=200, stop=["never seen"]))
    frames = await rig.undisturbed()
    lost = []
    for cut in range(20, len(frames) - 2, 3):
        recording = rig.recording()
        for frame in frames[:cut]:
            recording.heard(frame)
        await rig.go_on(recording)
        lost.append((cut - 1) - (200 - rig.asked[-1]["max_tokens"]))
    assert max(lost) <= 40
    assert sorted(lost)[len(lost) // 2] <= 12


async def test_an_engine_with_other_arithmetic_never_garbles_the_text() -> None:
    """Two engines that break ties differently, as in bf16: the text goes on validly, or the stream ends with an error."""
    resumed = refused = 0
    for seed in range(6):
        rig = Rig(COMPLETIONS, request(COMPLETIONS, ignore_eos=True, stop=["never seen"]))
        rig.first.state.model = rig.second.state.model = ToyModel(seed=seed)
        rig.first.state.variant, rig.second.state.variant = 1, 2
        frames = await rig.undisturbed()
        for cut in range(1, len(frames), 3):
            recording = rig.recording()
            for frame in frames[:cut]:
                recording.heard(frame)
            before = rig.told(payload_of(frames[:cut]))
            try:
                rest = await rig.go_on(recording)
            except TranslationFailed as error:
                assert "generated again" in str(error)
                assert await recording.resume(ENGINE, rig.call) == NotResumed("diverged")
                refused += 1
                continue
            resumed += 1
            final = rig.told(payload_of(frames[:cut]) + rest)
            assert final.text.startswith(before.text)
            assert "Es war einmal" not in final.text[len(before.text) :]
            assert final.finish == [("length", None)]
    assert resumed > refused > 0


async def test_what_an_engine_says_after_its_error_does_not_count() -> None:
    rig = Rig(CHAT, request(CHAT, ignore_eos=True))
    frames = await rig.undisturbed()
    recording = rig.recording()
    gave_up = b'data: {"error": {"message": "core died", "code": 500}}\n\ndata: [DONE]\n\n'
    assert [recording.heard(frame) for frame in frames[:20]] == [False] * 20
    assert recording.heard(b"%x\r\n%s\r\n0\r\n\r\n" % (len(gave_up), gave_up))
    assert rig.told(payload_of(frames[:20]) + await rig.go_on(recording)) == rig.told(payload_of(frames))


async def test_a_death_after_the_last_token_only_closes() -> None:
    rig = Rig(CHAT, request(CHAT, stream_options={"include_usage": True}))
    frames = await rig.undisturbed()
    for missing in (2, 3):
        recording = rig.recording()
        for frame in frames[:-missing]:
            recording.heard(frame)
        outcome = await recording.resume(ENGINE, rig.call)
        assert isinstance(outcome, Ended)
        assert rig.told(payload_of(frames[:-missing]) + outcome.body) == rig.told(payload_of(frames))
    assert rig.asked == []


async def test_a_death_before_the_first_event_asks_for_the_same_again() -> None:
    rig = Rig(CHAT, request(CHAT))
    recording = rig.recording()
    recording.heard(b"1a\r\ndata: {")
    outcome = await recording.resume(ENGINE, rig.call)
    assert isinstance(outcome, Continuation)
    assert outcome.target == CHAT.encode()
    assert json.loads(outcome.body) == rig.body | {"return_token_ids": True}
    frames = await rig.undisturbed()
    first = outcome.translator.feed(payload_of(frames[:9]) + b"data: {half")
    assert rig.told(first + await rig.go_on(recording)) == rig.told(payload_of(frames))


async def test_a_stream_that_outgrows_its_buffer_is_refused() -> None:
    rig = Rig(CHAT, request(CHAT), book=Book(each=4096, together=1 << 20))
    recording = rig.recording()
    for frame in await rig.undisturbed():
        recording.heard(frame)
    assert await recording.resume(ENGINE, rig.call) == NotResumed("buffer_full")
    recording.close()
    assert rig.book.shelf.held == 0


async def test_all_streams_together_are_bounded_too() -> None:
    rig = Rig(CHAT, request(CHAT), book=Book(each=1 << 20, together=6000))
    frames = await rig.undisturbed()
    first, second = rig.recording(), rig.recording()
    for frame in frames[:18]:
        first.heard(frame)
        second.heard(frame)
    assert await second.resume(ENGINE, rig.call) == NotResumed("buffer_full") or await first.resume(
        ENGINE, rig.call
    ) == NotResumed("buffer_full")
    first.close()
    second.close()
    assert rig.book.shelf.held == 0


@pytest.mark.parametrize(
    ("bytes_heard", "reason"),
    [
        (b"zz\r\ndata: {}\n\n\r\n", "unreadable"),
        (b"data: {not json}\n\n", "unreadable"),
        (b'data: {"choices":[{"text":"a"}]}\n\n', "no_token_ids"),
        (b'data: {"choices":[{"delta":{"reasoning":"hm"},"token_ids":[5]}],"prompt_token_ids":[1]}\n\n', "reasoning"),
        (b'data: {"choices":[{"delta":{"tool_calls":[{}]},"token_ids":[5]}],"prompt_token_ids":[1]}\n\n', "reasoning"),
        (b'data: {"choices":[{"index":1,"text":"a","token_ids":[5]}]}\n\n', "several_choices"),
    ],
)
async def test_a_stream_that_cannot_be_understood_is_refused(bytes_heard: bytes, reason: str) -> None:
    rig = Rig(COMPLETIONS, request(COMPLETIONS))
    recording = rig.recording()
    recording.heard(bytes_heard)
    assert await recording.resume(ENGINE, rig.call) == NotResumed(reason)


async def test_only_an_engine_that_computes_alike_goes_on() -> None:
    rig = Rig(COMPLETIONS, request(COMPLETIONS))
    recording = rig.recording()
    for frame in (await rig.undisturbed())[:5]:
        recording.heard(frame)
    outcome = await recording.resume(ENGINE, rig.call)
    assert isinstance(outcome, Continuation)
    other = {"revision": "r2", "dtype": "float16", "version": "0.33", "kind": "llamacpp", "tier": "cpu"}
    assert outcome.accepts(ENGINE)
    for name, value in other.items():
        changed: dict[str, Any] = {"endpoint": ENGINE.endpoint, "kind": "vllm", "revision": "r1", name: value}
        assert not outcome.accepts(Engine(**changed))


async def test_an_engine_that_dies_again_and_again_is_given_up() -> None:
    rig = Rig(COMPLETIONS, request(COMPLETIONS))
    recording = rig.recording()
    for frame in (await rig.undisturbed())[:5]:
        recording.heard(frame)
    outcomes = [await recording.resume(ENGINE, rig.call) for _ in range(9)]
    assert outcomes[-1] == NotResumed("too_often")
    assert all(isinstance(outcome, Continuation) for outcome in outcomes[:-1])


async def test_an_engine_that_aborts_at_its_shutdown_is_as_good_as_dead() -> None:
    rig = Rig(COMPLETIONS, request(COMPLETIONS, ignore_eos=True))
    frames = await rig.undisturbed()
    recording = rig.recording()
    for frame in frames[:20]:
        recording.heard(frame)
    aborted = frames[20].replace(b'"finish_reason":null', b'"finish_reason":"abort"')
    assert recording.heard(aborted)
    assert rig.told(payload_of(frames[:20]) + await rig.go_on(recording)) == rig.told(payload_of(frames))


def test_no_text_looks_like_an_engine_that_gives_up() -> None:
    tape = Tape(Shelf(limit=10_000, each=10_000))
    for text in ('{"error": 1}', '"finish_reason":"abort"', '{"error"', 'a"finish_reason":"error"b'):
        assert not tape.heard(b'data: {"choices":[{"index":0,"text":' + json.dumps(text).encode() + b"}]}\n\n")
