"""One event per waiting pod that says, counted, why no node takes it.

kube-scheduler's own event has one code per node and no counts, and when its own sums over a node fail it never asks Mica at all
("Insufficient mica.dev/…"): so the pods looked at here are those that wait, whoever has refused them. In the background, by the
leader alone, a few pods a second: a thousand waiting pods are told in minutes, and nothing that decides waits for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, Protocol

from mica_api import names
from mica_extender.explain.survey import Survey, survey
from mica_extender.metrics import Metrics
from mica_extender.placement import Rejection, Shape
from mica_extender.state.leadership import Leadership
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import PodRecord

REASON: Final = "FilteringFailed"
"""HAMi's users know it by this name."""
EVERY_S: Final = 2.0
PATIENCE_S: Final = 5.0
"""A pod that is bound sooner needs no explanation."""
QUIET_S: Final = 60.0
"""Between two looks at a pod, and so between two events about it when its reason has changed."""
REFRESH_S: Final = 1800.0
"""An event about an unchanged reason is written again before the API server forgets it (one hour)."""
EVENTS_PER_STEP: Final = 20
IDLE_SHARE: Final = 20
"""How many times as long as a step took nothing is done after it: surveys of a large cluster may take a twentieth of a core."""
SHAPES_KEPT: Final = 64
"""Kinds of pods whose answer is kept for QUIET_S; pods that ask for the same share it."""
MAX_MESSAGE: Final = 1000
_CHUNK: Final = 1000


@dataclass(frozen=True, slots=True)
class PodEvent:
    """What is told about a pod. ``name`` is the same for all events about it, so that the last one replaces the others.

    ``first_s_ago``: when this leader told the pod for the first time.
    """

    namespace: str
    pod: str
    uid: str
    message: str
    count: int
    first_s_ago: float = 0.0

    @property
    def name(self) -> str:
        """Name of the Event object."""
        return f"{self.pod[:200].rstrip('.-')}.mica-{hashlib.sha256(self.uid.encode()).hexdigest()[:10]}"


class EventApi(Protocol):
    """Where events go."""

    async def write(self, event: PodEvent) -> bool:
        """Create the event or replace the one of its name. False when it did not work and has to be tried again."""
        ...


@dataclass(frozen=True, slots=True)
class _Told:
    """What is known of a waiting pod: since when, what was last written and when to look again. Times are our clock's."""

    due: float
    key: str = ""
    written_at: float = 0.0
    first_at: float | None = None
    count: int = 0


@dataclass(frozen=True, slots=True)
class Words:
    """``message`` for people; ``key`` is equal as long as the reason is the same, whatever the counts."""

    message: str
    key: str


def words_of(found: Survey) -> Words | None:
    """Why no node takes pods of a shape; None when some node would, so that Mica is not what they wait for."""
    if found.fitting:
        return None
    if not found.refused:
        return Words(f"no node reports GPUs to {names.SCHEDULER_NAME}", "no nodes")
    by_code: dict[str, list[Rejection]] = {}
    for _, rejection in found.refused:
        by_code.setdefault(str(rejection.code), []).append(rejection)
    parts = [_part(rejections) for _, rejections in sorted(by_code.items(), key=lambda item: (-len(item[1]), item[0]))]
    return Words(f"0/{len(found.refused)} GPU nodes have room: {'; '.join(parts)}", ",".join(sorted(by_code)))


def message_of(pod: PodRecord, words: Words) -> str:
    """The words with where to read more, within MAX_MESSAGE."""
    hint = f". More: kubectl mica explain {pod.name} -n {pod.namespace}"
    return f"{words.message[: MAX_MESSAGE - len(hint)]}{hint}"


def _part(rejections: list[Rejection]) -> str:
    """Nodes of one code with the counts that most of them have."""
    counted = Counter(rejection.counted for rejection in rejections)
    most, count = counted.most_common(1)[0]
    nodes = f"{len(rejections)} node{'' if len(rejections) == 1 else 's'}"
    return f"{nodes} {most}" if count == len(rejections) else f"{nodes} like {most}"


class Announcer:
    """Tells waiting pods why. ``pods`` is the watch's copy of all slice pods.

    ``fits`` says whether some node takes pods of a shape: then they wait for their turn, and no node has to be asked for words.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        pods: Mapping[str, PodRecord],
        api: EventApi,
        leadership: Leadership,
        metrics: Metrics,
        fits: Callable[[Shape], Awaitable[bool]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fits = fits
        self._ledger = ledger
        self._pods = pods
        self._api = api
        self._leadership = leadership
        self._metrics = metrics
        self._clock = clock
        self._told: dict[str, _Told] = {}
        self._words: OrderedDict[Shape, tuple[float, Words | None]] = OrderedDict()

    async def run(self) -> None:
        """Tell until cancelled. What a new leader does not know it tells again, in the place of the old event."""
        while True:
            started = self._clock()
            if self._leadership.leading():
                await self.step()
            else:
                self._told.clear()
            await asyncio.sleep(max(EVERY_S, IDLE_SHARE * (self._clock() - started)))

    async def step(self) -> None:
        """Tell the pods that are due, those that have waited longest first."""
        waiting = await self._waiting()
        now = self._clock()
        self._told = {uid: self._told.get(uid) or _Told(now + PATIENCE_S) for uid in waiting}
        due = sorted((uid for uid, told in self._told.items() if told.due <= now), key=lambda uid: self._told[uid].due)
        surveyed = False
        for uid in islice(due, EVENTS_PER_STEP):
            pod = waiting[uid]
            if pod.shape is None:
                await self._tell(pod, Words(f"the request cannot be honoured: {pod.problem}", "problem"))
                continue
            known = self._known(pod.shape)
            if known is None and surveyed:
                continue
            if known is None:
                known, surveyed = await self._survey(pod.shape, uid), True
            await self._tell(pod, known[1])

    def _known(self, shape: Shape) -> tuple[float, Words | None] | None:
        """The answer for pods of this shape, if it is young enough."""
        known = self._words.get(shape)
        return known if known is not None and self._clock() - known[0] < QUIET_S else None

    async def _survey(self, shape: Shape, uid: str) -> tuple[float, Words | None]:
        """Look at all nodes: at most once a step."""
        words = None if await self._fits(shape) else words_of(await survey(shape, uid, self._ledger))
        made = (self._clock(), words)
        self._words[shape] = made
        self._words.move_to_end(shape)
        if len(self._words) > SHAPES_KEPT:
            self._words.popitem(last=False)
        return made

    async def _waiting(self) -> dict[str, PodRecord]:
        found: dict[str, PodRecord] = {}
        for count, pod in enumerate(list(self._pods.values())):
            if count % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)
            ours = pod.scheduler == names.SCHEDULER_NAME and not pod.node
            if ours and not pod.deleting and not pod.terminal:
                found[pod.uid] = pod
        return found

    async def _tell(self, pod: PodRecord, words: Words | None) -> None:
        now, told = self._clock(), self._told[pod.uid]
        later = replace(told, due=now + QUIET_S)
        self._told[pod.uid] = later
        known = words is None or (words.key == told.key and now - told.written_at < REFRESH_S)
        if known or words is None:
            return
        first_at = now if told.first_at is None else told.first_at
        event = PodEvent(pod.namespace, pod.name, pod.uid, message_of(pod, words), told.count + 1, now - first_at)
        done = await self._api.write(event)
        self._metrics.events.labels("written" if done else "failed").inc()
        if done:
            self._told[pod.uid] = replace(later, key=words.key, written_at=now, first_at=first_at, count=event.count)
