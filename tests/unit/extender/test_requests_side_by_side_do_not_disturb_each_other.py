"""Two requests about pods of one kind share what is known of them; what one has begun must not show in the other's answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np

from mica_api.request import ContainerRequest
from mica_extender.effort import Effort
from mica_extender.placement.kernels import CODES, NumpyKernel
from mica_extender.scheduling.verdicts import Judge
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import decode_node, decode_pod
from mica_runtime.reflector import Change

from .conftest import node_body, pod_body

GIB = 1024
NODES = 200
WANTED = [ContainerRequest("a", number=2, memory_mib=20 * GIB), ContainerRequest("b", number=2, memory_mib=10 * GIB)]


def change_every_node(ledger: Ledger, cores: int) -> None:
    for at in range(NODES):
        name = f"n{at}"
        held = [{"podUID": "u", "gpus": [{"uuid": f"GPU-{name}-0", "memoryMiB": GIB, "cores": cores}]}]
        body = node_body(name, gpus=4, slices=held)
        ledger.apply_node(Change(name, None, decode_node(json.dumps(body).encode())))


async def while_others_ask(pauses: int, *, scores: bool) -> list[int]:
    """What a request hears when the nodes, or what is learned, change in one of its pauses and another one asks then."""
    ledger, effort = Ledger(), Effort
    change_every_node(ledger, 1)
    judge = Judge(ledger, NumpyKernel())
    shape = decode_pod(json.dumps(pod_body(containers=WANTED)).encode()).shape
    assert shape is not None
    rows = np.arange(NODES, dtype=np.int32)
    if scores:
        await judge.verdicts(shape, rows, effort())
        first = asyncio.create_task(judge.scores(shape, rows, effort()))
    else:
        first = asyncio.create_task(judge.verdicts(shape, rows, effort()))
    for _ in range(pauses):
        await asyncio.sleep(0)
    if scores:
        ledger.learned.tables = replace(ledger.learned.tables)
    else:
        change_every_node(ledger, 2)
    second = asyncio.create_task(judge.scores(shape, rows, effort()) if scores else judge.verdicts(shape, rows, effort()))
    found = await first
    await second
    return (found if isinstance(found, np.ndarray) else found[0].codes).tolist()


async def test_every_verdict_of_a_request_is_one_that_an_answer_can_say() -> None:
    for pauses in range(1, 6):
        assert max(await while_others_ask(pauses, scores=False)) < len(CODES)


async def test_every_score_of_a_request_is_a_score() -> None:
    for pauses in range(1, 6):
        assert min(await while_others_ask(pauses, scores=True)) >= 0
