"""What filter, prioritize and preempt answer. Decisions only: no bodies, no clock, no writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mica_extender.placement import Rejection, fits
from mica_extender.scheduling.verdicts import Verdicts
from mica_extender.scheduling.wire import FilterAnswer, PreemptQuestion, Victims
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import PodRecord


def filter_nodes(pod: PodRecord, names: Sequence[str], verdicts: Verdicts) -> FilterAnswer:
    """Sort the nodes into fitting, short of something now, and never fitting.

    A pod whose request cannot be honoured fits nowhere and its reason is the problem in words.
    """
    if pod.shape is None:
        return FilterAnswer(unresolvable=dict.fromkeys(names, pod.problem))
    fitting: list[str] = []
    failed: dict[str, str] = {}
    unresolvable: dict[str, str] = {}
    for name in names:
        verdict = verdicts.verdict(pod.shape, name)
        if not isinstance(verdict, Rejection):
            fitting.append(name)
        elif verdict.permanent:
            unresolvable[name] = str(verdict.code)
        else:
            failed[name] = str(verdict.code)
    return FilterAnswer(fitting, failed, unresolvable)


def prioritize_nodes(pod: PodRecord, names: Sequence[str], verdicts: Verdicts) -> dict[str, int]:
    """Score of every node."""
    if pod.shape is None:
        return dict.fromkeys(names, 0)
    return {name: verdicts.score(pod.shape, name) for name in names}


def confirm_victims(question: PreemptQuestion, ledger: Ledger) -> Mapping[str, Victims]:
    """The candidates on which the pod fits once their victims are gone.

    Victims are never added or taken away: kube-scheduler chose them, and its own filters know nothing of cards. A pod that asks
    for no slice keeps all its candidates.
    """
    shape = question.pod.shape
    if shape is None or not shape.request.asks:
        return question.candidates
    confirmed: dict[str, Victims] = {}
    for name, victims in question.candidates.items():
        state = ledger.without(name, victims.uids)
        if state is not None and fits(shape, state):
            confirmed[name] = victims
    return confirmed
