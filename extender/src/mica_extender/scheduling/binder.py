"""Bind: choose cards, reserve them, and commit the decision with one write, whatever happens to that write's answer.

The check of the cards and their reservation happen without an await in between, so that in this single-threaded process nothing
can come between them. After that everything hangs on what the API server stored, which only reading the pod can tell when the
answer is lost: the reservation is kept until a read proves that the decision stands or that the write cannot land any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from mica_api import names
from mica_api.allocation import InvalidAllocation, encode_pod_allocation
from mica_api.hami import Bound, dialects_of, read_back
from mica_extender.placement import Rejection
from mica_extender.ports import WRITE_DEAD_AFTER_S, BindingApi, BindingLost, BindingRefused, PodGone
from mica_extender.scheduling.cards import CardChoice
from mica_extender.scheduling.declined import Decline, Declined
from mica_extender.scheduling.wire import BindQuestion
from mica_extender.state.leadership import Leadership
from mica_extender.state.ledger import Ledger, Shares
from mica_extender.state.records import PodRecord
from mica_runtime.logging import get_logger

_log = get_logger(__name__)

ANSWER_WITHIN_S: Final = 3.0
"""Below the scheduler's timeout of 5 s: the scheduler should hear our words, not its own timeout."""
AT_ONCE: Final = 24
"""kube-scheduler starts binds without a bound of its own. What the API server cannot store as fast waits, until our answers and
the renewals of the scheduler's Lease come too late. Fewer than the connections that are kept to the API server and than the
requests of one connection from the scheduler, so that no bind needs a handshake; enough to keep a slow API server busy."""
ROOM_WITHIN_S: Final = 0.5
_CATCH_UP_PAUSES_S: Final = (0.02, 0.05, 0.1, 0.2, 0.4)
_SETTLE_PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class _Stale(Exception):
    """The write lost against a change of the pod that has nothing to do with binding; ``pod`` is the present one."""

    def __init__(self, pod: PodRecord) -> None:
        super().__init__(pod.revision)
        self.pod = pod


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One write: the decision, the leader's term in which it was made, and the moment it is sent."""

    pod: PodRecord
    node: str
    shares: Shares
    term: str
    sent_at: float

    def dead(self, moment: float) -> bool:
        """Whether a write that is not stored at this moment never will be."""
        return moment - self.sent_at > WRITE_DEAD_AFTER_S


class Binder:
    """Binds pods. ``pods`` is the watch's copy, keyed by namespace/name; ``cards`` chooses cards (without it, on Python).

    ``on_decline`` is told the reason of every answer that is an error.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        pods: Mapping[str, PodRecord],
        api: BindingApi,
        leadership: Leadership,
        cards: CardChoice | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        on_decline: Callable[[Decline], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._cards = cards or CardChoice(ledger)
        self._pods = pods
        self._api = api
        self._leadership = leadership
        self._clock = clock
        self._room = asyncio.Event()
        self._room.set()
        self._wall = wall
        self._on_decline = on_decline
        self._under_way: dict[str, tuple[str, asyncio.Task[tuple[Decline, str] | None]]] = {}

    async def bind(self, question: BindQuestion) -> str:
        """Error text for the scheduler; empty when the pod is bound to the node with a decision of ours.

        A second call for the same pod joins the one under way. A bind that takes too long goes on after the answer.
        """
        declined = await self._join(question)
        if declined is None:
            return ""
        reason, words = declined
        self._on_decline(reason)
        return words

    async def _join(self, question: BindQuestion) -> tuple[Decline, str] | None:
        under_way = self._under_way.get(question.uid)
        if under_way is not None and under_way[0] != question.node:
            words = f"pod {question.key} is being bound to {under_way[0]}; the outcome is not known yet"
            return Decline.UNDER_WAY, words
        if under_way is None:
            task = asyncio.create_task(self._run(question))
            self._under_way[question.uid] = (question.node, task)
            task.add_done_callback(lambda _: self._ended(question.uid))
            if len(self._under_way) >= AT_ONCE:
                self._room.clear()
        else:
            task = under_way[1]
        done, _ = await asyncio.wait({task}, timeout=ANSWER_WITHIN_S)
        if not done:
            return Decline.UNDER_WAY, f"binding of pod {question.key} to {question.node} is still under way"
        return task.result()

    @property
    def busy(self) -> bool:
        """Whether AT_ONCE binds are under way."""
        return not self._room.is_set()

    async def room(self) -> None:
        """Wait until fewer are under way, but at most ROOM_WITHIN_S: writes whose outcome is unknown may take long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ROOM_WITHIN_S):
                await self._room.wait()

    def _ended(self, uid: str) -> None:
        self._under_way.pop(uid, None)
        if len(self._under_way) < AT_ONCE:
            self._room.set()

    async def _run(self, question: BindQuestion) -> tuple[Decline, str] | None:
        """Why not. A result and not an exception: several calls may wait for it, or none any more, and one that is raised again
        holds frames that hold it, a cycle with the pod's record in it for every pod that finds no room (`collection`).
        """
        try:
            await self._bind(question)
        except Declined as declined:
            _log.info("pod not bound", pod=question.key, node=question.node, reason=str(declined))
            return declined.reason, str(declined)
        return None

    async def _bind(self, question: BindQuestion) -> None:
        await self._let_the_watch_catch_up(question)
        term = self._leadership.term()
        pod = self._admissible(question)
        if pod.node:
            _check_stored(pod, question.node)
            return
        stored = self._ledger.reservation(pod.uid)
        if stored is not None and stored.settled:
            _check_settled(question, stored.node)
            return
        shares = self._reserve(pod, question.node)
        attempt = _Attempt(pod, question.node, shares, term, self._clock())
        try:
            await self._write(attempt)
        except _Stale as stale:
            await self._write_again(replace(attempt, pod=stale.pod))

    async def _let_the_watch_catch_up(self, question: BindQuestion) -> None:
        """kube-scheduler's watch is another one than ours: it may ask for a pod that ours shows a moment later."""
        for pause in _CATCH_UP_PAUSES_S:
            known = self._pods.get(question.key)
            if known is not None and known.uid == question.uid:
                return
            await asyncio.sleep(pause)

    def _admissible(self, question: BindQuestion) -> PodRecord:
        """The pod as the watch knows it; the caller's word is worth nothing."""
        if not self._leadership.leading():
            raise Declined(Decline.NOT_LEADING, "this replica does not lead: its kube-scheduler does not hold the Lease")
        pod = self._pods.get(question.key)
        if pod is None:
            raise Declined(Decline.UNKNOWN_POD, f"pod {question.key} is not known as a slice pod, or is gone")
        if pod.uid != question.uid:
            raise Declined(Decline.ANOTHER_POD, f"pod {question.key} has uid {pod.uid}, not {question.uid}")
        if pod.scheduler != names.SCHEDULER_NAME:
            raise Declined(Decline.ANOTHER_SCHEDULER, f"pod {question.key} belongs to scheduler {pod.scheduler!r}")
        if pod.deleting or pod.terminal:
            raise Declined(Decline.POD_ENDING, f"pod {question.key} is ending")
        return pod

    def _reserve(self, pod: PodRecord, node: str) -> Shares:
        """Choose and take the cards in one step."""
        if pod.shape is None:
            raise Declined(Decline.INVALID_REQUEST, pod.problem)
        verdict = self._cards.choose(pod.shape, node)
        if verdict is None:
            raise Declined(Decline.NODE_UNREGISTERED, f"node {node} has no VGPUNode: node unregistered")
        if isinstance(verdict, Rejection):
            raise Declined(Decline.NO_ROOM, f"node {node} has no room any more: {verdict.counted}")
        self._ledger.reserve(pod_uid=pod.uid, node=node, shares=verdict.shares)
        return verdict.shares

    async def _write_again(self, attempt: _Attempt) -> None:
        """One more try with the pod's present revision, which the first cannot land on any more, and with cards chosen anew.

        What is known of the node may have changed meanwhile. Only in the term of the first try: after another leader's, the pod
        has to come back through filter.
        """
        pod = attempt.pod
        self._ledger.release(pod.uid)
        if self._leadership.term() != attempt.term:
            raise Declined(Decline.NOT_LEADING, "this replica no longer leads")
        shares = self._reserve(pod, attempt.node)
        try:
            await self._write(replace(attempt, shares=shares, sent_at=self._clock()))
        except _Stale as stale:
            self._ledger.release(pod.uid)
            raise Declined(Decline.POD_CHANGED, f"pod {pod.key} changed twice while it was bound; try again") from stale

    async def _write(self, attempt: _Attempt) -> None:
        """Send the decision and learn what became of it. Raises Declined (reservation given back) or _Stale (kept)."""
        pod = attempt.pod
        try:
            annotations = encode_pod_allocation(pod_uid=pod.uid, node=attempt.node, shares=attempt.shares)
            await self._api.bind(pod, node=attempt.node, annotations={**self._read_back(attempt), **annotations})
        except InvalidAllocation as error:
            self._ledger.release(pod.uid)
            raise Declined(Decline.DECISION_TOO_LARGE, f"the decision for pod {pod.key} cannot be written: {error}") from error
        except BindingRefused as refused:
            if not refused.conflict:
                self._ledger.release(pod.uid)
                raise Declined(Decline.API_REFUSED, f"API server refused to bind pod {pod.key}: {refused}") from refused
            await self._settle(attempt, dead=True, why=str(refused))
        except BindingLost as lost:
            await self._settle(attempt, dead=False, why=str(lost))
        except Exception as error:
            # Nobody foresaw it, so nobody knows whether the request was sent.
            _log.exception("bind failed in an unknown way", pod=pod.key, node=attempt.node)
            await self._settle(attempt, dead=False, why=repr(error))
        else:
            self._ledger.settle(pod_uid=pod.uid, node=attempt.node, shares=attempt.shares)

    def _read_back(self, attempt: _Attempt) -> dict[str, str]:
        """What users of the system that the pod was written for look for. Nobody of ours reads it."""
        pod = attempt.pod
        bound = Bound(attempt.node, attempt.shares, int(self._wall()), pod.init_containers)
        return read_back(bound, dialects_of(pod.original))

    async def _settle(self, attempt: _Attempt, *, dead: bool, why: str) -> None:
        """Read the pod until it tells what became of the write. ``dead``: this write is known not to have been stored.

        Only a read that began when the write was dead proves that it never landed: what a read shows is older than its answer.
        """
        reads = 0
        while True:
            dead = dead or attempt.dead(self._clock())
            try:
                stored = await self._api.read(attempt.pod)
            except PodGone as gone:
                self._ledger.release(attempt.pod.uid)
                raise Declined(Decline.POD_ENDING, f"pod {attempt.pod.key} is gone") from gone
            except BindingLost:
                stored = None
            except Exception:
                _log.exception("pod cannot be read; trying again", pod=attempt.pod.key)
                stored = None
            if stored is not None and self._settled(attempt, stored, dead=dead, why=why):
                return
            await asyncio.sleep(_SETTLE_PAUSES_S[min(reads, len(_SETTLE_PAUSES_S) - 1)])
            reads += 1

    def _settled(self, attempt: _Attempt, stored: PodRecord, *, dead: bool, why: str) -> bool:
        """True: the decision stands. False: read again. Raises Declined (given back) or _Stale (kept)."""
        uid = attempt.pod.uid
        if stored.node:
            if stored.shares is None:
                self._ledger.release(uid)
            else:
                self._ledger.settle(pod_uid=uid, node=stored.node, shares=stored.shares)
            _check_stored(stored, attempt.node)
            return True
        moved = stored.revision != attempt.pod.revision
        if stored.deleting or stored.terminal:
            self._ledger.release(uid)
            raise Declined(Decline.POD_ENDING, f"pod {attempt.pod.key} is ending")
        if moved:
            raise _Stale(stored)
        if dead:
            self._ledger.release(uid)
            raise Declined(Decline.NOT_STORED, f"pod {attempt.pod.key} was not bound: {why}")
        return False


def _check_stored(pod: PodRecord, node: str) -> None:
    """A pod that is bound already is success only when it is bound here with a valid decision for itself."""
    if pod.node != node:
        raise Declined(Decline.BOUND_ELSEWHERE, f"pod {pod.key} is already bound to {pod.node}")
    if pod.shares is None:
        raise Declined(Decline.FOREIGN_DECISION, f"pod {pod.key} is bound to {node} without a valid decision of this scheduler")


def _check_settled(question: BindQuestion, node: str) -> None:
    """A decision is stored and the watch has not shown it yet; deciding again would forget the cards of the first."""
    if node != question.node:
        raise Declined(Decline.BOUND_ELSEWHERE, f"pod {question.key} is already bound to {node}")
