"""What filter, prioritize and preempt answer. Decisions only: no bodies, no clock, no writes.

They wait for nothing; a request that is expensive lets others have the event loop between two nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mica_extender.effort import Effort
from mica_extender.placement import Placement, Rejection
from mica_extender.scheduling.verdicts import Verdicts
from mica_extender.scheduling.wire import FilterAnswer, PreemptQuestion, Victims
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import PodRecord


async def filter_nodes(pod: PodRecord, names: Sequence[str], verdicts: Verdicts) -> FilterAnswer:
    """Sort the nodes into fitting, short of something now, and never fitting.

    A pod whose request cannot be honoured fits nowhere and its reason is the problem in words.
    """
    if pod.shape is None:
        return FilterAnswer(unresolvable=dict.fromkeys(names, pod.problem))
    fitting: list[str] = []
    failed: dict[str, str] = {}
    unresolvable: dict[str, str] = {}
    effort = Effort()
    for name in names:
        await effort.pause()
        verdict = verdicts.verdict(pod.shape, name, effort)
        if not isinstance(verdict, Rejection):
            fitting.append(name)
        elif verdict.permanent:
            unresolvable[name] = str(verdict.code)
        else:
            failed[name] = str(verdict.code)
    return FilterAnswer(fitting, failed, unresolvable)


async def prioritize_nodes(pod: PodRecord, names: Sequence[str], verdicts: Verdicts) -> dict[str, int]:
    """Score of every node."""
    if pod.shape is None:
        return dict.fromkeys(names, 0)
    effort = Effort()
    scores: dict[str, int] = {}
    for name in names:
        await effort.pause()
        scores[name] = verdicts.score(pod.shape, name, effort)
    return scores


async def confirm_victims(question: PreemptQuestion, ledger: Ledger) -> Mapping[str, Victims]:
    """The candidates on which the pod fits once their victims are gone.

    Victims are never added or taken away: kube-scheduler chose them, and its own filters know nothing of cards. A pod that asks
    for no slice keeps all its candidates.
    """
    shape = question.pod.shape
    if shape is None or not shape.request.asks:
        return question.candidates
    effort = Effort()
    confirmed: dict[str, Victims] = {}
    for name, victims in question.candidates.items():
        await effort.pause()
        state = ledger.without(name, victims.uids)
        if state is not None and isinstance(effort.search(shape, state)[0].verdict, Placement):
            confirmed[name] = victims
    return confirmed
