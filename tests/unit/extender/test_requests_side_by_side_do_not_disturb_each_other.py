"""Two requests about pods of one kind share what is known of them; what one has begun must not show in the other's answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mica_api import names
from mica_api.request import ContainerRequest
from mica_extender.effort import Effort
from mica_extender.placement import Shape
from mica_extender.placement.kernels import CODES, NumpyKernel
from mica_extender.scheduling.verdicts import Judge
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import decode_node, decode_pod
from mica_runtime.reflector import Change

from .conftest import node_body, pod_body

GIB = 1024
NODES = 200
ROWS = np.arange(NODES, dtype=np.int32)
WANTED = [ContainerRequest("a", number=2, memory_mib=20 * GIB), ContainerRequest("b", number=2, memory_mib=10 * GIB)]


def shape_of(containers: list[ContainerRequest], annotations: Mapping[str, str] | None = None) -> Shape:
    shape = decode_pod(json.dumps(pod_body(containers=containers, annotations=annotations)).encode()).shape
    assert shape is not None
    return shape


def see_node(ledger: Ledger, body: dict[str, Any]) -> None:
    record = decode_node(json.dumps(body).encode())
    ledger.apply_node(Change(record.name, None, record))


async def let_others_run(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def change_every_node(ledger: Ledger, cores: int) -> None:
    for at in range(NODES):
        name = f"n{at}"
        held = [{"podUID": "u", "gpus": [{"uuid": f"GPU-{name}-0", "memoryMiB": GIB, "cores": cores}]}]
        see_node(ledger, node_body(name, gpus=4, slices=held))


async def verdicts_while_others_ask(pauses: int) -> list[int]:
    """What a request hears when the nodes change in one of its pauses and another one asks then."""
    ledger = Ledger()
    change_every_node(ledger, 1)
    judge, shape = Judge(ledger, NumpyKernel()), shape_of(WANTED)
    first = asyncio.create_task(judge.verdicts(shape, ROWS, Effort()))
    await let_others_run(pauses)
    change_every_node(ledger, 2)
    second = asyncio.create_task(judge.verdicts(shape, ROWS, Effort()))
    (found, _), _ = await first, await second
    codes: list[int] = found.codes.tolist()
    return codes


async def scores_while_others_ask(pauses: int) -> list[int]:
    """What a request hears when something is learned in one of its pauses and another one asks then."""
    ledger = Ledger()
    change_every_node(ledger, 1)
    judge, shape = Judge(ledger, NumpyKernel()), shape_of(WANTED)
    await judge.verdicts(shape, ROWS, Effort())
    first = asyncio.create_task(judge.scores(shape, ROWS, Effort()))
    await let_others_run(pauses)
    ledger.learned.tables = replace(ledger.learned.tables)
    second = asyncio.create_task(judge.scores(shape, ROWS, Effort()))
    found, _ = await first, await second
    scores: list[int] = found.tolist()
    return scores


async def test_every_verdict_of_a_request_is_one_that_an_answer_can_say() -> None:
    for pauses in range(1, 6):
        assert max(await verdicts_while_others_ask(pauses)) < len(CODES)


async def test_every_score_of_a_request_is_a_score() -> None:
    for pauses in range(1, 6):
        assert min(await scores_while_others_ask(pauses)) >= 0


class SmallSteps(NumpyKernel):
    """Lets others run after every 16 nodes."""

    at_once = 16


async def test_a_node_without_cards_that_takes_the_place_of_another_in_a_pause_is_not_scored() -> None:
    wanted = [ContainerRequest("a", number=1, memory_percent=10)]
    for pauses in range(6):
        ledger = Ledger()
        for at in range(32):  # 64 cards: the columns have no row behind the last
            see_node(ledger, node_body(f"n{at}"))
        judge = Judge(ledger, SmallSteps())
        shape = shape_of(wanted, {names.ANNOTATION_NODE_POLICY: "binpack"})
        scores = asyncio.create_task(judge.scores(shape, np.arange(32, dtype=np.int32), Effort()))
        await let_others_run(pauses)
        ledger.apply_node(Change("n31", None, None))
        see_node(ledger, node_body("other", gpus=0))
        assert min((await scores)[:31]) > 0


def learn(ledger: Ledger) -> None:
    """Other tables, which change every score: models of cards become scarce."""
    scarcity = dict.fromkeys(ledger.fleet.models, 10**6)
    ledger.learned.tables = replace(ledger.learned.tables, scarcity=scarcity)


async def test_scores_of_before_hold_until_all_of_a_shape_are_made_anew() -> None:
    ledger = Ledger()
    change_every_node(ledger, 1)
    judge, shape = Judge(ledger, NumpyKernel()), shape_of([ContainerRequest("a", number=1, cores=10, memory_mib=1024)])
    renewing = asyncio.create_task(judge.renew())
    await let_others_run(1)
    before = await judge.scores(shape, ROWS, Effort())
    learn(ledger)
    held = await judge.scores(shape, ROWS, Effort())
    assert held.tolist() == before.tolist()
    await judge.renew_outdated()
    after = await judge.scores(shape, ROWS, Effort())
    assert after.tolist() == (await Judge(ledger, NumpyKernel()).scores(shape, ROWS, Effort())).tolist()
    assert after.tolist() != before.tolist()
    renewing.cancel()
    await asyncio.gather(renewing, return_exceptions=True)


async def test_a_request_in_a_pause_of_the_renewal_or_before_it_hears_only_scores() -> None:
    for changed in range(6):
        ledger = Ledger()
        change_every_node(ledger, 1)
        judge, shape = Judge(ledger, SmallSteps()), shape_of([ContainerRequest("a", number=1, cores=10, memory_mib=1024)])
        await judge.scores(shape, ROWS, Effort())
        renewing = asyncio.create_task(judge.renew())
        await let_others_run(1)
        learn(ledger)
        making = asyncio.create_task(judge.renew_outdated())
        await let_others_run(1)
        change_every_node(ledger, 2)
        asked = asyncio.create_task(judge.scores(shape, ROWS, Effort()))
        await let_others_run(changed)
        await making
        assert min((await asked).tolist()) > 0
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
