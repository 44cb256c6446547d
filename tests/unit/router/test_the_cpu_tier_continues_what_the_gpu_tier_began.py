"""Relay over real sockets between scripted engines of both tiers, which compute the same function of token ids: what the client
reads is what one engine alone would have said, whatever the streams are cut into."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mica_router.core.engines import Engine, Tier
from mica_router.core.resume.book import Book
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.core.routing import CpuUse, DeciderUse, Routing
from mica_router.core.tier_chooser import TierChooser

from .conftest import Bench, eventually, post, within
from .engines.llamacpp_dialect import llamacpp_engine
from .engines.rig import CHAT, COMPLETIONS, PROMPTS, Told, told
from .engines.toy_engine import Fault, ToyEngine
from .engines.vllm_dialect import vllm_engine
from .test_only_greedy_text_streams_are_resumed import REFUSED
from .test_streams_survive_their_engine import read_stream

USAGE = {"stream_options": {"include_usage": True}}


def ask_for(path: str, **options: Any) -> dict[str, Any]:
    return {"model": "toy", "stream": True, "temperature": 0, "max_tokens": 60} | PROMPTS[path] | options


@dataclass
class TwoTiers:
    """One GPU engine and CPU engines. `busy`: the GPU tier is full, so that streams are cut."""

    bench: Bench
    gpu: ToyEngine
    cpu: list[ToyEngine]

    def serve(self, *, after: int = 16, busy: bool = True, decider: DeciderUse | None = None, room: int = 0) -> None:
        use = CpuUse(mode="relay", relay_after=after)
        placed: list[tuple[ToyEngine, Tier]] = [(self.gpu, "gpu"), *((engine, "cpu") for engine in self.cpu)]
        engines = tuple(Engine(endpoint=engine.endpoint, tier=tier, kind="vllm", max_in_flight=room) for engine, tier in placed)
        service = Service(key=ServiceKey("ml", "toy"), model="toy", engines=engines, routing=Routing(cpu=use, decider=decider))
        self.bench.server.publish(build_table([service]))
        self.fill((room or 256) if busy else 0)

    def fill(self, requests: int) -> None:
        """As many requests as make the GPU engine full, as far as this router knows."""
        load = self.bench.context.load
        while load.in_flight(self.gpu.endpoint) < requests:
            load.occupy(self.gpu.endpoint)
        while load.in_flight(self.gpu.endpoint) > requests:
            load.vacate(self.gpu.endpoint)

    async def heard(self, path: str, body: dict[str, Any]) -> Told:
        full = told(await read_stream(await self.bench.client(), path, body))
        return replace(full if body.get("return_token_ids") else replace(full, ids=[]), identities=set())

    def relayed(self) -> int:
        return sum(n for (_, _, why), n in self.bench.context.metrics.decisions.items() if why == "relay")

    def made(self) -> tuple[int, int]:
        return self.gpu.counters.answers, sum(engine.counters.answers for engine in self.cpu)


async def two_tiers(bench: Bench, *, cpu: int = 1, merge: Sequence[int] = (1,), **settings: Any) -> TwoTiers:
    bench.context.book = Book(each=1 << 20, together=1 << 24)
    bench.context.chooser = TierChooser()
    engines = [vllm_engine(merge=tuple(merge), **settings) for _ in range(1 + cpu)]
    for engine in engines:
        await bench.engine(engine)
    return TwoTiers(bench, engines[0], engines[1:])


@pytest.mark.parametrize("merge", [(1,), (1, 1, 3)])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_the_text_is_the_same_wherever_it_is_cut(bench: Bench, path: str, merge: tuple[int, ...]) -> None:
    tiers = await two_tiers(bench, merge=merge)
    body = ask_for(path, ignore_eos=True, return_token_ids=True, **USAGE)
    tiers.serve(busy=False)
    whole = await tiers.heard(path, body)
    assert tiers.relayed() == 0
    for after in range(1, 60):
        tiers.serve(after=after)
        assert await tiers.heard(path, body) == whole, after
    assert tiers.relayed() == 59
    assert [len(whole.finish), len(whole.usage), whole.ended] == [1, 1, True]
    assert bench.context.metrics.resumes == {} and bench.context.metrics.resume_refusals == {}
    assert {code for _, code in bench.context.metrics.requests} == {200}


async def test_the_first_leg_is_all_that_the_gpu_engine_is_asked_for(bench: Bench) -> None:
    tiers = await two_tiers(bench)
    tiers.serve(after=16)
    heard = await tiers.heard(CHAT, ask_for(CHAT, ignore_eos=True, min_tokens=30))
    (first,) = tiers.gpu.asked(CHAT)
    (second,) = tiers.cpu[0].asked(COMPLETIONS)
    assert (first["max_tokens"], first["min_tokens"]) == (16, 16)
    assert 44 <= second["max_tokens"] <= 48
    assert tiers.gpu.counters.generated == 16 and heard.ended
    assert bench.context.metrics.decisions == {("toy", "gpu", "gpu_saturated"): 1, ("toy", "cpu", "relay"): 1}


async def test_many_hops_are_one_hop(bench: Bench) -> None:
    tiers = await two_tiers(bench, cpu=2, merge=(1, 2))
    body = ask_for(CHAT, ignore_eos=True, max_tokens=200, return_token_ids=True, **USAGE)
    tiers.serve(busy=False)
    whole = await tiers.heard(CHAT, body)
    for limit in (1, 2, 7, 10, 50):
        hops = DeciderUse(policy="thresholds", token_limit_min=limit, token_limit_max=limit)
        tiers.serve(after=8, decider=hops)
        before = tiers.relayed()
        assert await tiers.heard(CHAT, body) == whole, limit
        hopped = tiers.relayed() - before
        assert hopped >= 3 if limit < 50 else hopped >= 1
    assert whole.usage[0]["completion_tokens"] == 200


async def test_stop_strings_across_the_seam_are_found(bench: Bench) -> None:
    tiers = await two_tiers(bench, merge=(2, 1, 3))
    tiers.serve(busy=False)
    text = (await tiers.heard(COMPLETIONS, ask_for(COMPLETIONS, ignore_eos=True))).text
    for at in range(10, len(text) - 8, 3):
        body = ask_for(COMPLETIONS, stop=[text[at : at + 1 + at % 7]], **USAGE)
        tiers.serve(busy=False)
        whole = await tiers.heard(COMPLETIONS, body)
        for after in (8, 17):
            tiers.serve(after=after)
            assert await tiers.heard(COMPLETIONS, body) == whole, (at, after)
    assert tiers.relayed() > 10


async def test_a_cpu_engine_that_dies_is_taken_over_from(bench: Bench) -> None:
    tiers = await two_tiers(bench, cpu=2)
    body = ask_for(CHAT, ignore_eos=True, **USAGE)
    tiers.serve(busy=False)
    whole = await tiers.heard(CHAT, body)
    for after in range(1, 30, 4):
        for engine in tiers.cpu:
            engine.state.faults.clear()
        tiers.serve(after=16)
        tiers.cpu[0].state.faults.append(Fault("reset", after=after))
        tiers.cpu[1].state.faults.append(Fault("reset", after=after))
        assert await tiers.heard(CHAT, body) == whole, after
        for _ in range(2):
            bench.pass_time(35)
    assert bench.context.metrics.resumes["toy"] >= 8


async def test_a_gpu_engine_that_dies_in_its_leg_is_taken_over_from(bench: Bench) -> None:
    tiers = await two_tiers(bench)
    body = ask_for(CHAT, ignore_eos=True, **USAGE)
    tiers.serve(busy=False)
    whole = await tiers.heard(CHAT, body)
    for after in range(1, 16, 3):
        tiers.serve(after=16)
        tiers.gpu.state.faults.append(Fault("reset", after=after))
        assert await tiers.heard(CHAT, body) == whole, after
        for _ in range(2):
            bench.pass_time(35)


async def test_where_no_cpu_engine_takes_it_the_gpu_engine_goes_on(bench: Bench) -> None:
    tiers = await two_tiers(bench)
    body = ask_for(CHAT, ignore_eos=True, **USAGE)
    tiers.serve(busy=False)
    whole = await tiers.heard(CHAT, body)
    tiers.serve(after=16)
    tiers.cpu[0].state.faults.append(Fault("status"))
    assert await tiers.heard(CHAT, body) == whole
    assert tiers.made() == (3, 1)


async def test_a_gpu_tier_that_has_room_again_keeps_the_stream(bench: Bench) -> None:
    tiers = await two_tiers(bench)
    body = ask_for(CHAT, ignore_eos=True, **USAGE)
    tiers.serve(busy=False)
    whole = await tiers.heard(CHAT, body)
    tiers.serve(after=16)

    async def free() -> None:
        tiers.gpu.state.pace = lambda: asyncio.sleep(0)
        tiers.fill(1)

    tiers.gpu.state.pace = free
    assert await tiers.heard(CHAT, body) == whole
    assert tiers.made() == (3, 0)


async def test_when_nobody_is_left_the_client_is_told(bench: Bench) -> None:
    tiers = await two_tiers(bench)
    tiers.serve(after=16)
    tiers.cpu[0].state.faults.append(Fault("status"))
    tiers.gpu.state.faults.extend([Fault("reset", after=1000), Fault("status")])
    payload = await read_stream(await bench.client(), CHAT, ask_for(CHAT, ignore_eos=True))
    *_, error, done = payload.strip().split(b"\n\n")
    assert done == b"data: [DONE]"
    assert json.loads(error[6:])["error"]["type"] == "server_error"


async def test_a_client_that_leaves_stops_the_cpu_engine(bench: Bench) -> None:
    tiers = await two_tiers(bench)
    tiers.serve(after=8)
    client = await bench.client()
    client.send(post(json.dumps(ask_for(CHAT, ignore_eos=True, max_tokens=3000)).encode(), path=CHAT))
    await eventually(lambda: tiers.cpu[0].counters.generated > 20)
    client.hang_up()
    await eventually(lambda: tiers.cpu[0].counters.aborted == 1)
    tiers.fill(0)
    await eventually(lambda: bench.context.load.in_flight(tiers.cpu[0].endpoint) == 0)


@pytest.mark.parametrize(
    ("path", "change"),
    [(path, change) for path, change, reason in REFUSED if path != "/v1/responses" and reason != "malformed"],
)
async def test_what_cannot_be_resumed_is_never_cut(bench: Bench, path: str, change: dict[str, Any]) -> None:
    tiers = await two_tiers(bench)
    tiers.serve(after=4)
    client = await bench.client()
    client.send(post(json.dumps(ask_for(path, max_tokens=20) | change).encode(), path=path))
    await client.response()
    assert tiers.relayed() == 0
    assert sum(tiers.made()) <= 1


async def test_engines_of_another_kind_or_revision_do_not_continue(bench: Bench) -> None:
    tiers = await two_tiers(bench)
    llama = llamacpp_engine()
    await bench.engine(llama)
    for stranger in (
        Engine(endpoint=llama.endpoint, tier="cpu", kind="llamacpp"),
        Engine(endpoint=tiers.cpu[0].endpoint, tier="cpu", kind="vllm", revision="r2"),
    ):
        engines = (Engine(endpoint=tiers.gpu.endpoint, kind="vllm", revision="r1"), stranger)
        routing = Routing(cpu=CpuUse(mode="relay", relay_after=8))
        service = Service(key=ServiceKey("ml", "toy"), model="toy", engines=engines, routing=routing)
        bench.server.publish(build_table([service]))
        tiers.fill(256)
        assert (await tiers.heard(CHAT, ask_for(CHAT))).ended
    assert tiers.relayed() == 0 and tiers.gpu.asked(CHAT) == []


async def test_an_answer_that_ends_in_the_first_leg_is_not_continued(bench: Bench) -> None:
    tiers = await two_tiers(bench)
    tiers.serve(busy=False)
    text = (await tiers.heard(CHAT, ask_for(CHAT, ignore_eos=True))).text
    body = ask_for(CHAT, ignore_eos=True, stop=[text[4:7]], **USAGE)
    whole = await tiers.heard(CHAT, body)
    tiers.serve(after=40)
    assert await tiers.heard(CHAT, body) == whole
    assert tiers.relayed() == 0 and tiers.cpu[0].counters.answers == 0


async def test_a_prompt_that_leaves_less_than_the_leg_is_asked_for_whole(bench: Bench) -> None:
    tiers = await two_tiers(bench, max_model_len=60)
    body = {key: value for key, value in ask_for(CHAT, ignore_eos=True, **USAGE).items() if key != "max_tokens"}
    tiers.serve(busy=False)
    whole = await tiers.heard(CHAT, body)
    tiers.serve(after=64)
    assert await tiers.heard(CHAT, body) == whole
    assert ("toy", "gpu", "relay_refused") in bench.context.metrics.decisions


async def test_numerics_that_differ_send_a_stream_back_rather_than_garble_it(bench: Bench) -> None:
    """The CPU engine says other things: what it must say again is not the same, so that the GPU engine says it."""
    tiers = await two_tiers(bench, merge=(1, 4))
    tiers.serve(busy=False)
    tiers.cpu[0].state.variant = 7
    body = ask_for(COMPLETIONS, ignore_eos=True, stop=["never said, and long"], **USAGE)
    whole = await tiers.heard(COMPLETIONS, body)
    for after in range(10, 40, 3):
        tiers.serve(after=after)
        heard = await tiers.heard(COMPLETIONS, body)
        assert heard.ended and heard.usage == whole.usage and len(heard.finish) == 1
    assert bench.context.metrics.resume_refusals == {}


async def test_a_request_that_waited_for_a_bounded_engine_is_cut(bench: Bench) -> None:
    tiers = await two_tiers(bench)
    body = ask_for(CHAT, ignore_eos=True, **USAGE)
    tiers.serve(busy=False)
    whole = await tiers.heard(CHAT, body)
    tiers.serve(after=16, room=2)
    first, second = (asyncio.ensure_future(tiers.heard(CHAT, body)) for _ in range(2))
    key = ServiceKey("ml", "toy")
    await eventually(lambda: bench.context.load.held(key) == 2)
    tiers.fill(0)
    bench.context.load.waiting.release_one(key)
    assert await within(first) == whole
    assert await within(second) == whole
    assert tiers.relayed() >= 1
