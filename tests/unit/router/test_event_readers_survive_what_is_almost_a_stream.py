"""Fuzz of everything that reads events: what an engine may say is understood, or refused in the one way that callers expect."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mica_router.core.continuation import Continuation, NotResumed, TranslationFailed, Translator
from mica_router.core.resume.leg import FirstLeg
from mica_router.core.resume.recording import Kept, Shelf
from mica_router.core.resume.refusals import Refused
from mica_router.core.resume.request import Resumable, judge
from mica_router.core.resume.transcript import Transcript, Unreadable, dechunk, read_transcript
from mica_router.core.resume.whole import Assembled

from .engines.rig import CHAT, COMPLETIONS, Rig, features, payload_of, request
from .spoiling import spoilt

PIECES = [
    *(
        b"data: ",
        b"data: [DONE]\n\n",
        b"\n\n",
        b"\r\n",
        b": note\n\n",
        b"event: x\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b"null",
    ),
    *(b'"choices":[]', b'"choices":[{}]', b'"choices":7', b'"choices":[{"index":3}]', b'"delta":null', b'"delta":{"content":5}'),
    *(
        b'"usage":{"completion_tokens":null}',
        b'"token_ids":["a"]',
        b'"error":{}',
        b'"finish_reason":"length"',
        b"\xff\xfe",
        b"-5\r\n",
    ),
    *(b"0\r\n\r\n", b"ffffffff\r\n", b"1_0\r\n", b"\\ud800", b'"text":"\\ud83d"', b"1" * 400, b"[" * 2000),
]


def mutate(payload: bytes, random: Random) -> bytes:
    return spoilt(payload, random, inserts=PIECES, longest_cut=29, copied=[payload])


def feed(translator: Translator, data: bytes, random: Random) -> None:
    """All of it in parts, to its end; a translator may refuse, and in no other way."""
    at = 0
    try:
        while at < len(data):
            size = random.randrange(1, 200)
            assert isinstance(translator.feed(data[at : at + size]), bytes)
            at += size
        assert isinstance(translator.finish(), bytes)
    except TranslationFailed:
        pass


async def frames_of(path: str) -> list[bytes]:
    return await Rig(path, request(path, max_tokens=12, stream_options={"include_usage": True})).undisturbed()


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), path=st.sampled_from([CHAT, COMPLETIONS]))
async def test_a_transcript_is_read_or_unreadable(seed: int, path: str) -> None:
    random = Random(seed)
    frames = await frames_of(path)
    assert isinstance(read_transcript(dechunk(b"".join(frames))), Transcript)
    for _ in range(20):
        try:
            payload = dechunk(mutate(b"".join(frames), random))
        except Unreadable:
            continue
        assert isinstance(read_transcript(payload), Transcript | Refused | None)
        assert isinstance(read_transcript(mutate(payload, random)), Transcript | Refused | None)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("size", [b"-6", b"+6", b"0x6", b"1_0", b" 6", b"6 6", b"g"])
def test_a_chunk_of_no_size_is_no_chunk(size: bytes) -> None:
    with pytest.raises(Unreadable):
        dechunk(size + b"\r\nabcdef\r\n0\r\n\r\n")


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), path=st.sampled_from([CHAT, COMPLETIONS]), cut=st.integers(0, 12))
async def test_a_continuation_is_spliced_or_refused(seed: int, path: str, cut: int) -> None:
    random = Random(seed)
    rig = Rig(path, request(path, max_tokens=12))
    frames = await rig.undisturbed()
    recording = rig.recording()
    heard = mutate(b"".join(frames[:cut]), random) if cut % 3 == 2 else b"".join(frames[:cut])
    recording.heard(heard)
    outcome = await recording.resume(rig.engine, rig.call)
    assert isinstance(outcome, NotResumed) or hasattr(outcome, "body")
    if isinstance(outcome, Continuation):
        feed(outcome.translator, mutate(payload_of(await frames_of(COMPLETIONS)), random), random)
    recording.close()
    assert rig.book.shelf.held == 0


def first_leg(path: str) -> Translator:
    judged = judge(path, features(path, request(path)).body)
    assert isinstance(judged, Resumable)
    return FirstLeg(judged)


def assembled(path: str) -> Translator:
    return Assembled("chat" if path == CHAT else "completions", Kept(Shelf(limit=1 << 20, each=1 << 20), limit=1 << 20))


@pytest.mark.parametrize("make", [first_leg, assembled])
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), path=st.sampled_from([CHAT, COMPLETIONS]))
async def test_what_is_cut_or_put_together_is_whole_or_refused(make: Callable[[str], Translator], seed: int, path: str) -> None:
    random = Random(seed)
    payload = payload_of(await frames_of(path))
    for _ in range(10):
        translator = make(path)
        translator.head(200, [])
        feed(translator, mutate(payload, random), random)
