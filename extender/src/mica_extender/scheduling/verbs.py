"""What filter, prioritize and preempt answer. No clock, no writes; the answers are bytes, because encoding is most of the work.

They wait for nothing; a request that is expensive lets others have the event loop in between.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from mica_extender.effort import Effort
from mica_extender.placement import NodeState, Placement, Rejection, Shape
from mica_extender.placement.answers import REASONS, KnownNames, NameList, answers_by, list_names
from mica_extender.placement.kernels import CODES, FITS, Kernel
from mica_extender.placement.onepass import one_pass
from mica_extender.scheduling import wire
from mica_extender.scheduling.samples import SMALLEST_SAMPLE
from mica_extender.scheduling.verdicts import Judge
from mica_extender.scheduling.wire import FilterAnswer, NodeQuestion, PreemptQuestion, Victims
from mica_extender.state.ledger import Ledger

REPLIES_BYTES: Final = 16 * 2**20
"""Answers of filter that are kept, in all and with their names; one of 5,000 failing nodes is 300 KB."""
_REPLY_BYTES: Final = 2048
"""What keeping an answer costs beside its texts."""
NO_PRIORITIES: Final = b"[]"
_NUMBERS: Final = {code: number for number, code in enumerate(CODES) if code is not None}
Template = Callable[[bytes], NodeState | None]
"""The node that an object of a node which is not in the ledger would become, or None when nobody can tell."""


@dataclass(frozen=True, slots=True)
class FilterReply:
    """The answer as bytes, and how many nodes were refused for which reason.

    ``missed``: 0, or how many samples like this one make up the cluster when all of this one is refused and another node fits, or
    the request was cut short.
    """

    body: bytes
    refused: Mapping[str, int]
    missed: int = 0


class NodeVerbs:
    """Filter and prioritize over the ledger's present state."""

    def __init__(self, *, ledger: Ledger, kernel: Kernel, template: Template = lambda _: None) -> None:
        answers = answers_by(kernel)
        self._fleet = ledger.fleet
        self._judge = Judge(ledger, kernel, one_pass(kernel, answers))
        self._answers = answers
        self._names = KnownNames(answers)
        self._replies = Replies()
        self._template = template

    def filter_at_once(self, question: NodeQuestion) -> FilterReply | None:
        """What ``filter`` answers, where the kernel can tell and some node fits; None: ask ``filter``."""
        shape = question.pod.shape
        if shape is None or question.objects is not None:
            return None
        found = self._judge.sorted(shape, question.names)
        return FilterReply(found.body, _by_reason(found.tally)) if found is not None and found.tally[FITS] else None

    def prioritize_at_once(self, question: NodeQuestion) -> bytes | None:
        """What ``prioritize`` answers, where the kernel can tell; None: ask ``prioritize``."""
        shape = question.pod.shape
        if shape is None or question.objects is not None:
            return None
        return self._judge.priorities(shape, question.names)

    async def filter(self, question: NodeQuestion) -> FilterReply:
        """Sort the nodes into fitting, short of something now, and never fitting. Raises Malformed.

        A pod whose request cannot be honoured fits nowhere and its reason is the problem in words.
        """
        if question.objects is not None:
            return await self._filter_objects(question.pod.shape, question.pod.problem, question.objects)
        names, shape = self._read(question.names), question.pod.shape
        if shape is None:
            ones = np.ones(len(names), np.uint8)
            body = self._answers.filter_answer(names, ones, ones, ("", question.pod.problem))
            return FilterReply(body, {"InvalidRequest": len(names)})
        known = self._replies.get(shape, names, self._fleet.clock)
        if known is not None:
            return known
        clock = self._fleet.clock
        effort = Effort()
        found, final = await self._judge.verdicts(shape, names.rows, effort)
        tally = np.bincount(found.codes, minlength=len(REASONS)).tolist()
        missed = 0 if tally[FITS] else await self._missed(shape, len(names), effort, final=final)
        reply = FilterReply(self._answers.filter_answer(names, found.codes, found.permanent), _by_reason(tally), missed)
        if final and self._fleet.clock == clock:
            self._replies.put(shape, names, clock, reply)
        return reply

    async def prioritize(self, question: NodeQuestion) -> bytes:
        """Score of every node; 0 where the pod does not fit. Raises Malformed."""
        shape = question.pod.shape
        objects = question.objects
        names = self._read(question.names) if objects is None else list_names(self._fleet, list(objects))
        if shape is None:
            return self._answers.priorities(names, np.zeros(len(names), np.int64))
        return self._answers.priorities(names, await self._judge.scores(shape, names.rows, Effort()))

    async def fits_somewhere(self, shape: Shape) -> bool:
        """Whether any node takes pods of this shape now."""
        found, _ = await self._judge.verdicts(shape, np.arange(self._fleet.node_rows, dtype=np.int32), Effort())
        return bool((found.codes == FITS).any())

    async def renew(self) -> None:
        """Keep scores current beside the requests, until cancelled."""
        await self._judge.renew()

    async def _missed(self, shape: Shape, asked: int, effort: Effort, *, final: bool) -> int:
        """See FilterReply; all ``asked`` nodes refuse the pod. Not ``final``: some only because the request had cost enough.

        The next request goes on where this one ended, but somebody has to make it.
        """
        if not SMALLEST_SAMPLE <= asked < len(self._fleet):
            return 0 if final else 1
        found, sure = await self._judge.verdicts(shape, np.arange(self._fleet.node_rows, dtype=np.int32), effort)
        return 0 if sure and final and not (found.codes == FITS).any() else -(-len(self._fleet) // asked)

    def _read(self, raw: bytes) -> NameList:
        try:
            return self._names.read(self._fleet, raw)
        except wire.UNREADABLE as error:
            raise wire.Malformed(f"extender arguments: NodeNames: {error}") from error

    async def _filter_objects(self, shape: Shape | None, problem: str, objects: Mapping[str, msgspec.Raw]) -> FilterReply:
        """A scheduler (or an autoscaler's simulation of one) that sends whole nodes gets them back untouched."""
        if shape is None:
            answer = FilterAnswer(unresolvable=dict.fromkeys(objects, problem))
            return FilterReply(wire.write_filter(answer, objects), {"InvalidRequest": len(objects)})
        effort = Effort()
        rows = self._fleet.rows(objects)
        found, _ = await self._judge.verdicts(shape, rows, effort)
        fitting: list[str] = []
        failed: tuple[dict[str, str], dict[str, str]] = ({}, {})
        for name, row, code, never in zip(objects, rows, found.codes.tolist(), found.permanent.tolist(), strict=True):
            if row < 0:
                await effort.pause()
                code, never = self._judge_template(shape, objects[name], effort)
            if code == FITS:
                fitting.append(name)
            else:
                failed[bool(never)][name] = REASONS[code]
        refused: dict[str, int] = {}
        for reason in (*failed[0].values(), *failed[1].values()):
            refused[reason] = refused.get(reason, 0) + 1
        return FilterReply(wire.write_filter(FilterAnswer(fitting, *failed), objects), refused)

    def _judge_template(self, shape: Shape, node: msgspec.Raw, effort: Effort) -> tuple[int, bool]:
        state = self._template(bytes(node))
        if state is None:
            return 1, True
        verdict = effort.search(shape, state)[0].verdict
        return (_NUMBERS[verdict.code], verdict.permanent) if isinstance(verdict, Rejection) else (FITS, False)


def _by_reason(tally: Sequence[int]) -> dict[str, int]:
    """Refused nodes by reason, from the number of nodes by code."""
    return {reason: count for reason, count in zip(REASONS[1:], tally[1:], strict=True) if count}


class Replies:
    """Answers of filter for the same names and an unchanged fleet. Bounded by their size."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, Shape], tuple[NameList, int, FilterReply]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._known)

    def get(self, shape: Shape, names: NameList, clock: int) -> FilterReply | None:
        """The answer of before, when nothing at all has changed since."""
        known = self._known.get((id(names), shape))
        return known[2] if known is not None and known[1] == clock else None

    def put(self, shape: Shape, names: NameList, clock: int, reply: FilterReply) -> None:
        """Keep an answer. The names stay alive with it, so that their identity stays theirs."""
        key = (id(names), shape)
        old = self._known.pop(key, None)
        self._size += _bytes(names, reply) - (_bytes(names, old[2]) if old else 0)
        self._known[key] = (names, clock, reply)
        while self._size > REPLIES_BYTES:
            _, (listed, _, dropped) = self._known.popitem(last=False)
            self._size -= _bytes(listed, dropped)


def _bytes(names: NameList, reply: FilterReply) -> int:
    return len(reply.body) + len(names.raw) + _REPLY_BYTES


async def confirm_victims(question: PreemptQuestion, ledger: Ledger) -> Mapping[str, Victims]:
    """The candidates on which the pod fits once their victims are gone.

    Victims are never added or taken away: kube-scheduler chose them, and its own filters know nothing of cards. A pod that asks
    for no slice keeps all its candidates, one whose request cannot be honoured has none.
    """
    shape = question.pod.shape
    if shape is None:
        return {}
    if not shape.request.asks:
        return question.candidates
    effort = Effort()
    confirmed: dict[str, Victims] = {}
    for name, victims in question.candidates.items():
        await effort.pause()
        state = ledger.without(name, victims.uids)
        if state is not None and isinstance(effort.search(shape, state)[0].verdict, Placement):
            confirmed[name] = victims
    return confirmed
