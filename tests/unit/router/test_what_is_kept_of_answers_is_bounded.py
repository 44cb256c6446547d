"""Answers that are read on their way are kept within bounds; what does not fit is told, counted, and given back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from mica_router.core.continuation import Continuation, NotResumed, TooLong, TranslationFailed, Translator
from mica_router.core.events import LONGEST_EVENT
from mica_router.core.resume.book import Book, Recorded
from mica_router.core.resume.leg import FirstLeg
from mica_router.core.resume.recording import Shelf, Tape
from mica_router.core.resume.replay import Replay
from mica_router.core.resume.request import Resumable, judge
from mica_router.core.resume.splice import Splice
from mica_router.core.routing import Routing

from .conftest import Bench, EngineRequest, post
from .engines.rig import CHAT, COMPLETIONS, ENGINE, PROMPTS, Rig, features, payload_of, request

LLAMA = replace(ENGINE, kind="llamacpp")
WHOLE = {"model": "toy"} | PROMPTS[CHAT]


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


def assembling(book: Book) -> Any:
    return book.open(features(CHAT, WHOLE)._replace(streams=False), LLAMA)


def test_answers_that_are_put_together_share_what_may_be_kept() -> None:
    book = Book(each=1000, together=1000)
    one, other = assembling(book), assembling(book)
    for handling in (one, other):
        handling.translator.head(200, [])
    one.translator.feed(event("a" * 400))
    with pytest.raises(TooLong) as refused:
        other.translator.feed(event("b" * 400))
    assert (refused.value.limit, refused.value.together) == (1000, True)
    one.close()
    other.close()
    assert book.shelf.held == 0
    assert assembling(book).translator is not None


def test_with_nowhere_to_keep_it_the_answer_is_the_engines_own() -> None:
    book = Book(each=0, together=0)
    assert assembling(book).plain


@pytest.mark.parametrize("content", [5, [1], {"a": 1}, True])
def test_text_that_is_no_text_is_no_answer(content: object) -> None:
    translator = assembling(Book(each=1000, together=1000)).translator
    translator.head(200, [])
    with pytest.raises(TranslationFailed):
        translator.feed(b"data: " + json.dumps({"choices": [{"delta": {"content": content}}]}).encode() + b"\n\n")


async def test_a_client_whose_answer_does_not_fit_is_told_to_come_again(bench: Bench) -> None:
    async def talk(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event("word " * 1000))
        await request.gone.wait()

    bench.context.book = book = Book(each=1000, together=1000)
    engines = [await bench.engine(), await bench.engine()]
    for engine in engines:
        engine.script = talk
    bench.route(*engines, kind="llamacpp")
    answer = await bench.ask(post(b'{"model": "chat", "messages": []}'))
    assert (answer.status, answer.header("retry-after")) == (503, "2")
    assert json.loads(answer.body)["error"]["code"] == "overloaded"
    assert bench.context.metrics.upstream_errors == {("chat", "too_long"): 1}
    assert sum(len(engine.requests) for engine in engines) == 1
    assert book.shelf.held == 0


def resumable() -> Resumable:
    judged = judge(COMPLETIONS, json.dumps(request(COMPLETIONS)).encode())
    assert isinstance(judged, Resumable)
    return judged


def tape() -> Tape:
    return Tape(Shelf(limit=1 << 20, each=1 << 20))


async def splice() -> Splice:
    rig = Rig(COMPLETIONS, request(COMPLETIONS))
    recording = rig.recording()
    for frame in (await rig.undisturbed())[:5]:
        recording.heard(frame)
    outcome = await recording.resume(ENGINE, rig.call)
    assert isinstance(outcome, Continuation)
    assert isinstance(outcome.translator, Splice)
    return outcome.translator


@pytest.mark.parametrize("kind", ["replay", "leg", "splice", "assembled"])
async def test_an_event_without_end_is_given_up(kind: str) -> None:
    made: dict[str, Translator] = {
        "replay": Replay(tape()),
        "leg": FirstLeg(resumable()),
        "splice": await splice(),
        "assembled": assembling(Book(each=1000, together=1000)).translator,
    }
    translator = made[kind]
    translator.head(200, [])
    piece = b"data: " + b"x" * (1 << 20)
    with pytest.raises(TooLong):
        for _ in range(LONGEST_EVENT // (1 << 20) + 1):
            translator.feed(piece)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_a_stream_that_no_longer_fits_goes_on_to_its_end_and_no_further(path: str) -> None:
    rig = Rig(path, request(path, ignore_eos=True, stop=["qqqqq"], stream_options={"include_usage": True}))
    frames = await rig.undisturbed()
    whole = rig.told(payload_of(frames))
    for cut in range(3, len(frames) - 3, 5):
        # What was heard fits, and little more.
        size = sum(map(len, frames[:cut]))
        rig.book = Book(each=1 << 20, together=size + len(json.dumps(rig.body)) + 300)
        recording = rig.recording()
        assert isinstance(recording, Recorded)
        for frame in frames[:cut]:
            recording.heard(frame)
        rest = await rig.go_on(recording)
        assert rig.told(payload_of(frames[:cut]) + rest) == whole
        assert await recording.resume(ENGINE, rig.call) == NotResumed("buffer_full")
        assert recording._story is not None
        assert (recording._story.text, recording._story.ids, recording._story.prompt_ids) == ("", [], [])
        recording.close()
        assert rig.book.shelf.held == 0


async def test_legs_are_not_begun_when_their_tokens_could_not_be_kept() -> None:
    path, body = COMPLETIONS, request(COMPLETIONS)
    assert Book(each=1 << 20, together=1 << 20).open_leg(features(path, body), ENGINE, tokens=64).translator is not None
    small = Book(each=1 << 20, together=10_000).open_leg(features(path, body), ENGINE, tokens=64)
    assert (small.translator, small.recording is None) == (None, False)


async def test_resume_may_be_switched_off_by_its_bound(bench: Bench) -> None:
    bench.context.book = Book(each=0, together=0)
    bench.route(await bench.engine(), kind="vllm", routing=Routing())
    answer = await bench.ask(post(b'{"model": "chat", "messages": [], "stream": true, "temperature": 0}'))
    assert answer.status == 200
