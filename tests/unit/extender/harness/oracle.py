"""The judge: what must hold at every write, at every answer, and once peace has returned. Counts for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from mica_api import names
from mica_api.allocation import GPUShare, InvalidAllocation, decode_pod_allocation
from mica_api.request import decode_request
from mica_extender.placement import Rejection, choose

from .agent import Agent, over
from .extender import Extender
from .store import Body, Store

REPAIRED_WITHIN_S = 30.0
Shares = tuple[GPUShare, ...]


def decided(pod: Body) -> Shares | None:
    """The shares of a bound pod; None when it is not bound or carries no decision for itself there."""
    meta, node = pod["metadata"], pod["spec"].get("nodeName")
    try:
        found = decode_pod_allocation(meta["annotations"], len(pod["spec"]["containers"]))
    except InvalidAllocation:
        return None
    if not node or found is None or any((one.pod_uid, one.node) != (meta["uid"], node) for one in found):
        return None
    return tuple(share for one in found for share in one.shares)


class Oracle:
    """``problems`` is what went wrong. An over-commitment is one when it lasts longer than ``over_commitments`` seconds."""

    def __init__(self, store: Store, agents: Mapping[str, Agent], *, over_commitments: float) -> None:
        self.problems: list[str] = []
        self.bindings = 0
        self.over_commitments = 0
        self._store = store
        self._agents = agents
        self._allowed_s = over_commitments
        self._over_since: dict[str, float] = {}
        self._refused: set[str] = set()
        store.on_binding = self._bound
        store.on_eviction = self._evicted

    def say(self, problem: str) -> None:
        """Note a problem."""
        self.problems.append(f"t={asyncio.get_running_loop().time():.3f} revision {self._store.revision}: {problem}")

    def _bound(self, key: str, pod: Body) -> None:
        self.bindings += 1
        shares = decided(pod)
        if shares is None:
            self.say(f"{key} was bound without a decision for itself")
            return
        asked = decode_request(pod["metadata"]["annotations"][names.ANNOTATION_REQUEST])
        if [(s.memory_mib, s.cores) for s in shares] != [
            (c.memory_mib, c.cores) for c in asked.containers for _ in range(c.number)
        ]:
            self.say(f"{key} was bound with a decision for another request")
        node = self._agents[pod["spec"]["nodeName"]]
        for uuid in {share.uuid for share in shares}:
            problem = self._over(node, uuid)
            if not problem:
                continue
            self.over_commitments += 1
            self._over_since.setdefault(uuid, asyncio.get_running_loop().time())
            if not self._allowed_s:
                self.say(f"double allocation: {key} on {uuid}: {problem}")

    def _over(self, node: Agent, uuid: str) -> str:
        pods = [p for p in self._store.pods.values() if p["spec"].get("nodeName") == node.name]
        living = [p for p in pods if not p["metadata"].get("deletionTimestamp")] if self._allowed_s else pods
        shares = [s for p in living for s in decided(p) or () if s.uuid == uuid]
        card = next((g for g in node.gpus if g.uuid == uuid), None)
        return over(card.memory_mib, node.max_slices, shares) if card else "no such card"

    def look(self) -> None:
        """Once a second: over-commitments of stale deciders have to end in time; remember who was refused."""
        now = asyncio.get_running_loop().time()
        for agent in self._agents.values():
            self._refused |= agent.refusals.keys()
            for gpu in agent.gpus:
                if gpu.uuid in self._over_since and not self._over(agent, gpu.uuid):
                    del self._over_since[gpu.uuid]
        for uuid, since in self._over_since.items():
            if now - since > self._allowed_s > 0:
                self.say(f"{uuid} has been over-committed for {now - since:.0f} s")
                self._over_since[uuid] = now

    def _evicted(self, pod: Body) -> None:
        for agent in self._agents.values():
            self._refused |= agent.refusals.keys()
        if pod["metadata"]["uid"] not in self._refused:
            self.say(f"{pod['metadata']['name']} was evicted, and nobody had refused this pod")

    def sending(self, extender: Extender, key: str, binding: Body) -> None:
        """A process sends a decision: it must fit beside everything that this process could see at that moment.

        Not judged where others over-commit: a second try may then see more than there was when its cards were chosen.
        """
        if not extender.leadership.leading():
            self.say(f"{key} was decided by a process that knew that it does not lead")
        if self._allowed_s:
            return
        meta, name = binding["metadata"], binding["target"]["name"]
        held: dict[str, list[Shares]] = {}
        for pod in extender.cluster.pods.values():
            if pod.node == name and not pod.terminal and pod.shares is not None:
                held.setdefault(pod.uid, []).append(tuple(s for c in pod.shares for s in c))
        for node in extender.ledger.records():
            if node.name == name:
                for uid, shares in node.held.items():
                    held.setdefault(uid, []).append(shares)
        containers = sum(name.startswith(names.ALLOCATION_PREFIX) for name in meta["annotations"])
        mine = decode_pod_allocation(meta["annotations"], containers) or ()
        uid = mine[0].pod_uid if mine else ""
        held[uid] = [tuple(share for one in mine for share in one.shares)]
        agent = self._agents[name]
        for gpu in agent.gpus:
            used = [share for options in held.values() for share in _largest(options, gpu.uuid)]
            if any(s.uuid == gpu.uuid for s in held[uid][0]) and over(gpu.memory_mib, agent.max_slices, used):
                self.say(f"{key} was decided onto {gpu.uuid}, which was known to be held")

    def answered(self, extender: Extender, pod: Body, node: str) -> None:
        """The scheduler was told that the pod is bound."""
        meta = pod["metadata"]
        stored = self._store.pods.get(f"{meta['namespace']}/{meta['name']}")
        if stored is None or stored["metadata"]["uid"] != meta["uid"]:
            return
        if stored["spec"].get("nodeName") != node or decided(stored) is None:
            self.say(f"{meta['name']} was called bound to {node}, and is not")
        reservation = extender.ledger.reservation(meta["uid"])
        if reservation is not None and reservation.settled:
            kept = tuple(share for container in reservation.shares for share in container)
            if kept != decided(stored):
                self.say(f"{meta['name']}: the ledger keeps another decision than the one that is stored")

    def unsettled(self, extender: Extender) -> list[str]:
        """What is not as it must be once peace has returned; empty in the end."""
        found = [f"node {agent.name} refuses {uid}" for agent in self._agents.values() for uid in agent.refusals]
        found += [problem for agent in self._agents.values() for problem in self._differences(extender, agent)]
        size = extender.ledger.size()
        if size.reservations:
            found.append(f"{size.reservations} reservations are left")
        return found + self._waiting_for_no_reason(extender)

    def _differences(self, extender: Extender, agent: Agent) -> Iterable[str]:
        """Ledger against what is stored and held, both ways."""
        truth: dict[str, list[Shares]] = {}
        for pod in self._store.pods.values():
            if pod["spec"].get("nodeName") == agent.name:
                truth.setdefault(pod["metadata"]["uid"], []).append(decided(pod) or ())
        for uid, pin in agent.pins.items():
            truth.setdefault(uid, []).append(tuple(s for c in pin.containers for s in c.shares))
        state = extender.ledger.node(agent.name)
        if state is None:
            yield f"node {agent.name} is not in the ledger"
            return
        for card in state.cards:
            used = [share for options in truth.values() for share in _largest(options, card.uuid)]
            real = (sum(s.memory_mib for s in used), sum(s.cores for s in used), len(used))
            if real != (card.used_mib, card.used_cores, card.slices):
                yield f"{card.uuid}: ledger {(card.used_mib, card.used_cores, card.slices)}, stored and held {real}"

    def _waiting_for_no_reason(self, extender: Extender) -> list[str]:
        found = []
        for key, pod in self._store.pods.items():
            if pod["spec"].get("nodeName") or pod["metadata"].get("deletionTimestamp"):
                continue
            record = extender.cluster.pods.get(key)
            if record is None or record.shape is None:
                found.append(f"{key} is not known")
                continue
            for name in self._agents:
                state = extender.ledger.node(name)
                if state is not None and not isinstance(choose(record.shape, state), Rejection):
                    found.append(f"{key} waits and fits on {name}")
        return found


def _largest(options: list[Shares], uuid: str) -> list[GPUShare]:
    """A pod's slices of a card: it is known by its decision, by its node, or by both, and counts once."""
    per_option = [[share for share in option if share.uuid == uuid] for option in options]
    return max(per_option, key=len, default=[])
