"""What is taken of every card, kept up to date by one event at a time.

A pod's share of a card counts for three reasons, each kept on its own: it is stored on the bound pod, the node's agent says that
it is held, or a bind has reserved it. For one pod the largest of the three counts, so that nothing is counted twice and nothing
is free before its last reason is gone. Readers get immutable states of a node and never see half an event. Not safe for threads:
everything runs in one event loop, and no method awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mica_api.allocation import GPUShare
from mica_extender.placement import Card, NodeState
from mica_extender.state.records import NodeRecord, PodRecord, PoolRecord
from mica_runtime.reflector import Change

Reason = Literal["stored", "held", "reserved"]
Shares = tuple[tuple[GPUShare, ...], ...]
_Amounts = tuple[int, int, int]
_Usage = Mapping[str, _Amounts]
_NOTHING: Final[_Amounts] = (0, 0, 0)


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


class Ledger:
    """Nodes, their cards and everything that is taken of them. ``on_gain`` is called when something became free."""

    def __init__(self, on_gain: Callable[[], None] = lambda: None) -> None:
        self._on_gain = on_gain
        self._nodes: dict[str, NodeRecord] = {}
        self._pools: dict[str, PoolRecord] = {}
        self._states: dict[str, NodeState] = {}
        self._charges: dict[str, dict[str, dict[Reason, _Usage]]] = {}
        self._stored_on: dict[str, str] = {}
        self._unbound: set[str] = set()
        self._reservations: dict[str, Reservation] = {}

    def node(self, name: str) -> NodeState | None:
        """Present state of a node; None when it has no VGPUNode. The same object as long as nothing has changed."""
        return self._states.get(name)

    def nodes(self) -> Iterable[NodeState]:
        """Present states of all nodes."""
        return self._states.values()

    def records(self) -> Iterable[NodeRecord]:
        """Inventory of all nodes, with what their agents report."""
        return self._nodes.values()

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
            nodes=len(self._states),
            cards=sum(len(state.cards) for state in self._states.values()),
            pods=len(self._stored_on),
            reservations=len(self._reservations),
        )

    def apply_pod(self, change: Change[PodRecord]) -> None:
        """A pod appeared, changed or went away. A name that is used again is a new pod: uids decide."""
        old, new = change.old, change.new
        if old is not None and (new is None or new.uid != old.uid):
            self._unbound.discard(old.uid)
            self._forget_stored(old.uid)
            self._drop_settled(old.uid)
        if new is None:
            return
        if new.node:
            self._unbound.discard(new.uid)
        else:
            self._unbound.add(new.uid)
        counts = new.node != "" and not new.terminal and new.shares is not None
        if counts and new.shares is not None:
            self._stored_on[new.uid] = new.node
            self._charge(new.node, new.uid, "stored", _usage(new.shares))
        else:
            self._forget_stored(new.uid)
        if new.node:
            self.release(new.uid)

    def apply_node(self, change: Change[NodeRecord]) -> None:
        """A VGPUNode appeared, changed or went away."""
        old, new = change.old, change.new
        name = change.key
        for uid in (old.held if old else {}).keys() - (new.held if new else {}).keys():
            self._uncharge(name, uid, "held")
        for uid, shares in (new.held if new else {}).items():
            self._put(name, uid, "held", _usage((shares,)))
        if new is None:
            self._nodes.pop(name, None)
            self._states.pop(name, None)
            return
        self._nodes[name] = new
        self._refresh(name)

    def apply_pool(self, change: Change[PoolRecord]) -> None:
        """A VGPUPool appeared, changed or went away.

        Most events are writes of its status. Its policies decide which cards are better, never whether a pod fits.
        """
        if change.new == self._pools.get(change.key):
            return
        if change.new is None:
            self._pools.pop(change.key, None)
        else:
            self._pools[change.key] = change.new
        for record in [r for r in self._nodes.values() if r.pool == change.key]:
            self._refresh(record.name)

    def reserve(self, *, pod_uid: str, node: str, shares: Shares) -> None:
        """Take the shares for a bind that is about to be sent; replaces an earlier reservation of the pod."""
        self.release(pod_uid)
        self._reservations[pod_uid] = Reservation(pod_uid, node, shares)
        self._charge(node, pod_uid, "reserved", _usage(shares))

    def settle(self, *, pod_uid: str, node: str, shares: Shares) -> None:
        """The API server has stored this decision; it counts until the watch shows the pod bound or gone.

        When the watch has already done so, nothing is left to reserve: the pod counts by itself, or no longer.
        """
        if pod_uid not in self._unbound:
            self.release(pod_uid)
            return
        previous = self._reservations.get(pod_uid)
        if previous is not None and previous.node != node:
            self.release(pod_uid)
        self._reservations[pod_uid] = Reservation(pod_uid, node, shares, settled=True)
        self._charge(node, pod_uid, "reserved", _usage(shares))

    def release(self, pod_uid: str) -> None:
        """Give a reservation back; nothing happens when there is none."""
        reservation = self._reservations.pop(pod_uid, None)
        if reservation is not None:
            self._uncharge(reservation.node, pod_uid, "reserved")

    def _drop_settled(self, pod_uid: str) -> None:
        """The pod of a stored decision is gone. One that is still under way is its bind's to end."""
        reservation = self._reservations.get(pod_uid)
        if reservation is not None and reservation.settled:
            self.release(pod_uid)

    def _forget_stored(self, pod_uid: str) -> None:
        node = self._stored_on.pop(pod_uid, None)
        if node is not None:
            self._uncharge(node, pod_uid, "stored")

    def _charge(self, node: str, uid: str, reason: Reason, usage: _Usage) -> None:
        self._put(node, uid, reason, usage)
        self._refresh(node)

    def _put(self, node: str, uid: str, reason: Reason, usage: _Usage) -> None:
        self._charges.setdefault(node, {}).setdefault(uid, {})[reason] = usage

    def _uncharge(self, node: str, uid: str, reason: Reason) -> None:
        reasons = self._charges.get(node, {}).get(uid, {})
        reasons.pop(reason, None)
        if not reasons:
            self._charges.get(node, {}).pop(uid, None)
        if not self._charges.get(node):
            self._charges.pop(node, None)
        self._refresh(node)

    def _refresh(self, name: str) -> None:
        record = self._nodes.get(name)
        if record is None:
            return
        before = self._states.get(name)
        after = self._build(record)
        if before == after:
            return
        self._states[name] = after
        if gained(before, after):
            self._on_gain()

    def _build(self, record: NodeRecord, leave_out: frozenset[str] = frozenset()) -> NodeState:
        taken: dict[str, _Amounts] = {}
        for uid, reasons in self._charges.get(record.name, {}).items():
            if uid not in leave_out:
                _add(taken, reasons.values())
        pool = self._pools.get(record.pool)
        return NodeState(
            name=record.name,
            max_slices=record.max_slices,
            cards=tuple(_taken(card, taken.get(card.uuid, _NOTHING)) for card in record.cards),
            node_policy=pool.node_policy if pool else "binpack",
            gpu_policy=pool.gpu_policy if pool else "binpack",
            ready=record.ready,
        )


def gained(before: NodeState | None, after: NodeState) -> bool:
    """Whether a pod that did not fit before could fit now."""
    if before is None or after.max_slices > before.max_slices or (after.ready and not before.ready):
        return True
    old = {card.uuid: card for card in before.cards}
    return any(card.uuid not in old or _better(old[card.uuid], card) for card in after.cards)


def _better(old: Card, new: Card) -> bool:
    return (
        new.memory_mib - new.used_mib > old.memory_mib - old.used_mib
        or new.used_cores < old.used_cores
        or new.slices < old.slices
        or (new.healthy and not old.healthy)
        or new.model != old.model
    )


def _usage(shares: Shares) -> _Usage:
    usage: dict[str, _Amounts] = {}
    for share in (share for container in shares for share in container):
        mib, cores, count = usage.get(share.uuid, _NOTHING)
        usage[share.uuid] = (mib + share.memory_mib, cores + share.cores, count + 1)
    return usage


def _add(taken: dict[str, _Amounts], usages: Iterable[_Usage]) -> None:
    """Add one pod: of its reasons the largest in each dimension."""
    largest: dict[str, _Amounts] = {}
    for usage in usages:
        for uuid, (mib, cores, count) in usage.items():
            m, c, n = largest.get(uuid, _NOTHING)
            largest[uuid] = (max(m, mib), max(c, cores), max(n, count))
    for uuid, (mib, cores, count) in largest.items():
        m, c, n = taken.get(uuid, _NOTHING)
        taken[uuid] = (m + mib, c + cores, n + count)


def _taken(card: Card, amounts: _Amounts) -> Card:
    mib, cores, count = amounts
    return card.plus(memory_mib=mib, cores=cores, slices=count)
