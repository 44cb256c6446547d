"""What is taken of every card, kept up to date by one event at a time in the arrays of a Fleet.

A pod's share of a card counts for three reasons, each kept on its own: it is stored on the bound pod, the node's agent says that
it is held, or a bind has reserved it. For one pod the largest of the three counts, so that nothing is counted twice and nothing
is free before its last reason is gone. Readers never see half an event. Not safe for threads: everything runs in one event loop,
and no method awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from mica_api.allocation import GPUShare
from mica_api.compute import DEFAULT_RULES, rank
from mica_api.policies import DEFAULT_CARD_POLICY, DEFAULT_NODE_POLICY
from mica_extender.placement import Card, NodeState
from mica_extender.placement.charge import Amounts, add_shares, most
from mica_extender.placement.dream import Dream
from mica_extender.placement.fleet import UNKNOWN, Fleet
from mica_extender.placement.mix import Dreamer
from mica_extender.state.learned import Learned
from mica_extender.state.records import NodeRecord, PodRecord, PoolRecord
from mica_runtime.reflector import Change

Shares = tuple[tuple[GPUShare, ...], ...]
Usage = Mapping[str, Amounts]
_NOTHING: Final = Amounts()
_STATES_KEPT: Final = 1024
"""States built for readers and kept while their node does not change."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Cards that a bind of this replica has chosen; ``settled`` when the API server is known to have stored it."""

    pod_uid: str
    node: str
    shares: Shares
    settled: bool = False


@dataclass(frozen=True, slots=True)
class LedgerSize:
    """Counts for metrics."""

    nodes: int
    cards: int
    pods: int
    reservations: int


class _Bound(NamedTuple):
    """A pod that is bound and has not ended; without shares when its decision is not one of ours."""

    shares: Shares
    cpu_milli: int


class Ledger:
    """Nodes, their cards and everything that is taken of them. ``on_gain`` is called when something became free.

    ``dreamer``: see ``placement.mix.Mix``.
    """

    def __init__(self, on_gain: Callable[[], None] = lambda: None, *, dreamer: Callable[[], Dreamer] = Dream) -> None:
        self.fleet = Fleet()
        """What is known of all nodes; to be read only."""
        self.learned = Learned(self.fleet, dreamer)
        """What the pods seen so far teach about scores."""
        self._on_gain = on_gain
        self._nodes: dict[str, NodeRecord] = {}
        self._pools: dict[str, PoolRecord] = {}
        self._states: dict[int, tuple[int, NodeState]] = {}
        self._bound: dict[str, dict[str, _Bound]] = {}
        self._bound_on: dict[str, str] = {}
        self._unbound: dict[str, int] = {}
        self._reservations: dict[str, Reservation] = {}

    def node(self, name: str) -> NodeState | None:
        """Present state of a node; None when it has no VGPUNode."""
        row = self.fleet.index.get(name)
        return None if row is None else self.state(row)

    def state(self, row: int) -> NodeState:
        """Present state of the node in this row of the fleet."""
        version = int(self.fleet.version[row])
        known = self._states.get(row)
        if known is not None and known[0] == version:
            return known[1]
        if len(self._states) >= _STATES_KEPT:
            self._states.clear()
        state = self.fleet.state(row)
        self._states[row] = (version, state)
        return state

    def nodes(self) -> Iterable[NodeState]:
        """Present states of all nodes."""
        return self.fleet.states()

    def records(self) -> Iterable[NodeRecord]:
        """Inventory of all nodes, with what their agents report."""
        return self._nodes.values()

    def pools(self) -> Iterable[PoolRecord]:
        """All pools."""
        return self._pools.values()

    def without(self, name: str, pod_uids: Iterable[str]) -> NodeState | None:
        """State that a node would have without these pods."""
        record = self._nodes.get(name)
        return self._build(record, leave_out=frozenset(pod_uids)) if record else None

    def reservation(self, pod_uid: str) -> Reservation | None:
        """Reservation of a pod, if there is one."""
        return self._reservations.get(pod_uid)

    def size(self) -> LedgerSize:
        """Counts for metrics."""
        return LedgerSize(
            nodes=len(self._nodes),
            cards=sum(len(record.cards) for record in self._nodes.values()),
            pods=len(self._bound_on),
            reservations=len(self._reservations),
        )

    def apply_pod(self, change: Change[PodRecord]) -> None:
        """A pod appeared, changed or went away. A name that is used again is a new pod: uids decide."""
        old, new = change.old, change.new
        if old is not None and (new is None or new.uid != old.uid):
            self._forget(old.uid)
        if new is None:
            return
        if new.shape is not None and (old is None or old.uid != new.uid):
            self.learned.observe(new.shape)
        counts = new.node != "" and not new.terminal
        before = self._before(new.uid, new.node if counts else "")
        self._wait(new.uid, None if new.node else new.cpu_milli)
        self._bind(new.uid, new.node, _Bound(new.shares or (), new.cpu_milli) if counts else None)
        if new.node:
            self._reservations.pop(new.uid, None)
        self._carry_over(new.uid, before)

    def apply_node(self, change: Change[NodeRecord]) -> None:
        """A VGPUNode appeared, changed or went away."""
        if change.new is None:
            self._nodes.pop(change.key, None)
            self.fleet.drop(change.key)
            return
        self._nodes[change.key] = change.new
        self._refresh(change.new)

    def apply_pool(self, change: Change[PoolRecord]) -> None:
        """A VGPUPool appeared, changed or went away.

        Most events are writes of its status. Its policies decide which cards are better, ``mutex`` and the bounds of compute also
        whether a pod fits.
        """
        if change.new == self._pools.get(change.key):
            return
        if change.new is None:
            self._pools.pop(change.key, None)
        else:
            self._pools[change.key] = change.new
        for record in [r for r in self._nodes.values() if r.pool == change.key]:
            self._refresh(record)

    def reserve(self, *, pod_uid: str, node: str, shares: Shares) -> None:
        """Take the shares for a bind that is about to be sent; replaces an earlier reservation of the pod."""
        self._reserve(Reservation(pod_uid, node, shares))

    def settle(self, *, pod_uid: str, node: str, shares: Shares) -> None:
        """The API server has stored this decision; it counts until the watch shows the pod bound or gone.

        When the watch has already done so, nothing is left to reserve: the pod counts by itself, or no longer.
        """
        if pod_uid not in self._unbound:
            self.release(pod_uid)
            return
        self._reserve(Reservation(pod_uid, node, shares, settled=True))

    def release(self, pod_uid: str) -> None:
        """Give a reservation back; nothing happens when there is none."""
        if pod_uid in self._reservations:
            before = self._before(pod_uid)
            del self._reservations[pod_uid]
            self._carry_over(pod_uid, before)

    def _reserve(self, reservation: Reservation) -> None:
        uid, previous = reservation.pod_uid, self._reservations.get(reservation.pod_uid)
        if previous is not None and (previous.node, previous.shares) == (reservation.node, reservation.shares):
            self._reservations[uid] = reservation  # it takes what it took; only its being settled may be new
            return
        before = self._before(uid, reservation.node)
        self._reservations[uid] = reservation
        self._carry_over(uid, before)

    def _forget(self, uid: str) -> None:
        """The pod is gone. A decision that is still under way is its bind's to end; a stored one goes with the pod."""
        before = self._before(uid)
        self._wait(uid, None)
        self._bind(uid, "", None)
        reservation = self._reservations.get(uid)
        if reservation is not None and reservation.settled:
            del self._reservations[uid]
        self._carry_over(uid, before)

    def _wait(self, uid: str, cpu_milli: int | None) -> None:
        """The pod is not bound and requests this CPU, or (None) does not wait."""
        if cpu_milli is None:
            self._unbound.pop(uid, None)
        else:
            self._unbound[uid] = cpu_milli

    def _bind(self, uid: str, node: str, bound: _Bound | None) -> None:
        """The pod is bound to the node like this, or (None) to none."""
        before = self._bound_on.get(uid, "")
        if before and (bound is None or before != node):
            self._unbind(uid, before)
        if bound is not None:
            self._bound_on[uid] = node
            self._bound.setdefault(node, {})[uid] = bound

    def _unbind(self, uid: str, node: str) -> None:
        del self._bound_on[uid]
        pods = self._bound[node]
        del pods[uid]
        if not pods:
            del self._bound[node]

    def _before(self, uid: str, node: str = "") -> list[tuple[NodeRecord, Usage]]:
        """What a pod takes of the nodes that it is on, in the API or by a reservation, and of ``node``, which it may come to."""
        reservation = self._reservations.get(uid)
        names = (node, self._bound_on.get(uid, ""), reservation.node if reservation is not None else "")
        records = [self._nodes[name] for name in dict.fromkeys(names) if name in self._nodes]
        return [(record, self._usage_of(uid, record.name)) for record in records]

    def _carry_over(self, uid: str, before: list[tuple[NodeRecord, Usage]]) -> None:
        """Carry over to the fleet what has changed about the pod since ``before``."""
        gained = False
        for record, old in before:
            gained |= self._charge(record, old, self._usage_of(uid, record.name))
        if gained:
            self._on_gain()

    def _charge(self, record: NodeRecord, old: Usage, new: Usage) -> bool:
        """Charge the difference; whether something became free."""
        row = self.fleet.index[record.name]
        gained = False
        for uuid in () if old == new else old.keys() | new.keys():
            position = record.positions.get(uuid)
            mib, cores, count = old.get(uuid, _NOTHING)
            m, c, n = new.get(uuid, _NOTHING)
            if position is not None and (mib, cores, count) != (m, c, n):
                self.fleet.charge(row, position, memory_mib=m - mib, cores=c - cores, slices=n - count)
                gained |= m < mib or c < cores or n < count
        self.fleet.set_cpu_left(row, self._cpu_left(record))
        return gained

    def _refresh(self, record: NodeRecord) -> None:
        """Count a node anew."""
        row = self.fleet.index.get(record.name)
        before = None if row is None else self.state(row)
        after = self._build(record)
        if before != after:
            self.fleet.put(after)
            if gained(before, after):
                self._on_gain()

    def _usage_of(self, uid: str, node: str) -> Usage:
        """What one pod takes of the cards of a node: of its reasons the largest, card by card."""
        record = self._nodes[node]
        bound = self._bound.get(node, {}).get(uid)
        held = record.held.get(uid)
        reservation = self._reservations.get(uid)
        reasons: list[Shares] = [bound.shares] if bound is not None and bound.shares else []
        if held and (held,) not in reasons:
            reasons.append((held,))
        if reservation is not None and reservation.node == node and reservation.shares not in reasons:
            reasons.append(reservation.shares)
        return usage_on(record, reasons[0]) if len(reasons) == 1 else most(usage_on(record, one) for one in reasons)

    def _uids_on(self, record: NodeRecord) -> set[str]:
        reserved = {uid for uid, one in self._reservations.items() if one.node == record.name}
        return {*self._bound.get(record.name, {}), *record.held, *reserved}

    def _cpu_left(self, record: NodeRecord, leave_out: frozenset[str] = frozenset()) -> int:
        """CPU that is left on the node, in milli; UNKNOWN when its agent does not report it."""
        if record.cpu is None:
            return UNKNOWN
        bound = self._bound.get(record.name, {})
        pods = {uid: one.cpu_milli for uid, one in bound.items()}
        for uid, reservation in self._reservations.items():
            if reservation.node == record.name:
                pods.setdefault(uid, self._unbound.get(uid, 0))
        total, others = record.cpu
        return max(total - others - sum(cpu for uid, cpu in pods.items() if uid not in leave_out), 0)

    def _build(self, record: NodeRecord, leave_out: frozenset[str] = frozenset()) -> NodeState:
        taken: dict[str, Amounts] = {}
        for uid in self._uids_on(record) - leave_out:
            for uuid, (mib, cores, count) in self._usage_of(uid, record.name).items():
                m, c, n = taken.get(uuid, _NOTHING)
                taken[uuid] = Amounts(m + mib, c + cores, n + count)
        pool = self._pools.get(record.pool)
        return NodeState(
            name=record.name,
            max_slices=record.max_slices,
            cards=tuple(_taken(card, taken[card.uuid]) if card.uuid in taken else card for card in record.cards),
            node_policy=pool.node_policy if pool else DEFAULT_NODE_POLICY,
            gpu_policy=pool.gpu_policy if pool else DEFAULT_CARD_POLICY,
            ready=record.ready,
            weights=pool.weights if pool else None,
            cpu_total=record.cpu[0] if record.cpu else UNKNOWN,
            cpu_left=self._cpu_left(record, leave_out),
            compute=pool.compute if pool else DEFAULT_RULES,
        )


def gained(before: NodeState | None, after: NodeState) -> bool:
    """Whether a pod that did not fit before could fit now."""
    if before is None or after.max_slices > before.max_slices or (after.ready and not before.ready):
        return True
    if "mutex" in before.gpu_policy and "mutex" not in after.gpu_policy:
        return True
    if rank(after.compute.highest_priority) > rank(before.compute.highest_priority):
        return True
    if after.compute.max_weight > before.compute.max_weight:
        return True
    old = {card.uuid: card for card in before.cards}
    return any(card.uuid not in old or _better(old[card.uuid], card) for card in after.cards)


def _better(old: Card, new: Card) -> bool:
    return (
        new.total_mib - new.used_mib > old.total_mib - old.used_mib
        or new.memory_mib > old.memory_mib
        or new.core_capacity - new.used_cores > old.core_capacity - old.used_cores
        or new.slices < old.slices
        or new.max_slices != old.max_slices
        or (new.healthy and not old.healthy)
        or (old.cordoned and not new.cordoned)
        or new.model != old.model
        or new.numa != old.numa
    )


def usage_on(record: NodeRecord, shares: Shares) -> Usage:
    """What shares that are held together take of the cards of a node."""
    usage: dict[str, Amounts] = {}
    for container in shares:
        add_shares(usage, container, record.by_uuid)
    return usage


def _taken(card: Card, amounts: Amounts) -> Card:
    return replace(card, used_mib=amounts.memory_mib, used_cores=amounts.cores, slices=amounts.slices)
