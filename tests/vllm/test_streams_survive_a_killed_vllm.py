"""kill -9 of one of two vLLM engines under fifty streams: the text equals that of undisturbed runs, character for character."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from .conftest import Process, StartEngine

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
WORDS = ["Straße", "naïve", "中文字符", "日本語", "русский", "😀👍", "def", "return", "import", "café"]
STREAMS = 48
TOKENS = 160


@dataclass
class Heard:
    text: str = ""
    finish: list[str] = field(default_factory=list)
    usage: list[dict[str, int]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    error: str = ""
    done: bool = False
    cut: int = 0
    """Characters heard when the engine was killed."""
    events: int = 0
    """Those with a choice."""


def request(path: str, number: int) -> dict[str, Any]:
    prompt = " ".join(WORDS[(number * 3 + step) % len(WORDS)] for step in range(3 + number % 9)) + str(number)
    content: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]} if path == CHAT else {"prompt": prompt}
    options: dict[str, Any] = {"model": "tiny", "stream": True, "temperature": 0, "max_tokens": TOKENS - 2 * (number % 20)}
    options |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
    return content | options | ({"repetition_penalty": 1.1} if number % 4 == 1 else {})


class Progress:
    """Counts characters of all streams; `reached` is set at `goal`. Not events: a busy vLLM puts several tokens into one."""

    def __init__(self, goal: int) -> None:
        self._left = goal
        self.reached = asyncio.Event()

    def step(self, characters: int) -> None:
        self._left -= characters
        if self._left <= 0:
            self.reached.set()


async def listen(url: str, path: str, body: dict[str, Any], progress: Progress, heard: Heard) -> Heard:
    async with aiohttp.ClientSession() as session, session.post(url + path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                heard.done = True
                continue
            event = json.loads(line[6:])
            if "error" in event:
                heard.error = json.dumps(event)
                continue
            heard.ids.add(event["id"])
            heard.usage += [event["usage"]] if event.get("usage") else []
            heard.events += bool(event["choices"])
            before = len(heard.text)
            for choice in event["choices"]:
                heard.text += choice.get("text") or choice.get("delta", {}).get("content") or ""
                heard.finish += [choice["finish_reason"]] if choice["finish_reason"] else []
            progress.step(len(heard.text) - before)
    return heard


async def undisturbed(engine: Process, path: str, bodies: list[dict[str, Any]]) -> list[Heard]:
    return list(await asyncio.gather(*(listen(engine.url, path, body, Progress(0), Heard()) for body in bodies)))


async def disturbed(router: Process, path: str, bodies: list[dict[str, Any]], victim: Process, *, goal: int) -> list[Heard]:
    """Run them all through the router; kill the victim when so many characters are out."""
    progress, heard = Progress(goal), [Heard() for _ in bodies]
    tasks = [
        asyncio.ensure_future(listen(router.url, path, body, progress, one)) for body, one in zip(bodies, heard, strict=True)
    ]
    await progress.reached.wait()
    victim.kill()
    for one in heard:
        one.cut = len(one.text)
    return list(await asyncio.gather(*tasks))


def metrics(router: Process) -> list[str]:
    """The lines of the router's metrics."""
    with urllib.request.urlopen(f"{router.admin}/metrics", timeout=10) as answer:
        lines: list[str] = answer.read().decode().splitlines()
    return lines


def counted(router: Process, name: str) -> int:
    """A counter of the router, over all labels."""
    return sum(int(float(line.rpartition(" ")[2])) for line in metrics(router) if line.startswith(name + "{"))


def with_stops(bodies: list[dict[str, Any]], whole: list[Heard]) -> list[dict[str, Any]]:
    """Every third one stops at a string of its own text, in the later half."""
    for number, (body, heard) in enumerate(zip(bodies, whole, strict=True)):
        start = len(heard.text) * 3 // 5 + number
        stop = heard.text[start : start + 2 + number % 5]
        if number % 3 == 2 and stop.strip():
            body["stop"] = [stop, "never seen anywhere"]
    return bodies


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("interval", [1, 4])
async def test_text_is_equal_to_the_character(
    start_engine: StartEngine, start_router: Callable[..., Process], path: str, interval: int
) -> None:
    flags = ("--stream-interval", str(interval))
    first, second = start_engine(*flags), start_engine(*flags)
    for engine in (first, second):
        engine.wait_ready("/health", seconds=600)
    router = start_router(first, second)
    bodies = [request(path, number) for number in range(STREAMS)]
    bodies = with_stops(bodies, await undisturbed(second, path, bodies))
    whole = await undisturbed(second, path, bodies)
    said = "".join(one.text for one in whole)
    assert "\ufffd" in said, "no text with bytes that are no characters: this would show less than it says"
    assert any(ord(character) > 127 for character in said.replace("\ufffd", ""))
    tokens = sum(one.usage[-1]["completion_tokens"] for one in whole)
    assert interval == 1 or sum(one.events for one in whole) * 2 < tokens, "events do not hold several tokens"
    await undisturbed(first, path, bodies)  # an engine that is asked for the first time is slow, and would be killed in silence
    broken = await disturbed(router, path, bodies, first, goal=sum(len(one.text) for one in whole) // 4)
    resumed = counted(router, "mica_router_resumes_total")
    assert resumed >= 20, "\n".join([*metrics(router), router.log.read_text()[-2000:]])
    assert counted(router, "mica_router_resume_refusals_total") == 0
    for body, expected, got in zip(bodies, whole, broken, strict=True):
        assert not got.error, (got.error, body)
        assert got.text == expected.text, body
        assert (got.finish, got.done, len(got.ids)) == (expected.finish, True, 1)
        assert got.usage == expected.usage, body
    print(f"{path} interval {interval}: {resumed} cut of {len(bodies)}, cpus {os.cpu_count()}, all equal")


def doubled(text: str, near: int) -> list[str]:
    """What stands twice in a row, twelve characters or more, with its middle at `near` or the next sixty-four."""
    return [
        text[middle : middle + length]
        for middle in range(near, min(near + 64, len(text)))
        for length in range(12, min(middle, len(text) - middle) + 1)
        if text[middle - length : middle] == text[middle : middle + length]
    ]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_in_bf16_text_is_a_prefix_and_a_continuation(
    start_engine: StartEngine, start_router: Callable[..., Process], path: str
) -> None:
    first, second = start_engine(dtype="bfloat16"), start_engine(dtype="bfloat16")
    for engine in (first, second):
        engine.wait_ready("/health", seconds=600)
    router = start_router(first, second)
    bodies = [request(path, number) for number in range(STREAMS)]
    whole = await undisturbed(second, path, bodies)
    again = await undisturbed(second, path, bodies[::-1])
    await undisturbed(first, path, bodies)
    broken = await disturbed(router, path, bodies, first, goal=sum(len(one.text) for one in whole) // 4)
    resumed = counted(router, "mica_router_resumes_total")
    assert resumed, "\n".join([*metrics(router), router.log.read_text()[-2000:]])
    for body, expected, got in zip(bodies, whole, broken, strict=True):
        assert got.done
        prompt = body["prompt"] if path == COMPLETIONS else body["messages"][0]["content"]
        assert prompt not in got.text
        assert got.error or (got.finish, len(got.ids)) == (["length"], 1)
        assert got.error or got.usage == expected.usage
        if got.text != expected.text:
            assert not doubled(got.text, got.cut), (got.text, got.cut)
    equal = sum(one.text == other.text for one, other in zip(whole, broken, strict=True))
    alike = sum(one.text == other.text for one, other in zip(whole, again[::-1], strict=True))
    refused = sum(bool(got.error) for got in broken)
    assert refused <= STREAMS // 8
    print(f"bf16 {path}: {resumed} cut, {equal} of {STREAMS} equal, {refused} refused; two undisturbed runs: {alike} equal")
