"""The gate that every slice container passes before it starts: identify, verify once, pin, write, answer.

``StartGate.admit`` returns when the container may start and raises with words for its owner otherwise. Decisions are made by the
pure functions of ``identify`` and ``verify``; this module brings them their values and carries the answer out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from mica_api.allocation import GPUShare, InvalidAllocation, decode_pod_allocation
from mica_device_plugin.cdi import Edits
from mica_device_plugin.cluster import Cluster
from mica_device_plugin.finishing import to_the_end
from mica_device_plugin.identify import Claim, NotYet, Unlisted, identify, judge_unlisted
from mica_device_plugin.keeper import container_limits
from mica_device_plugin.kubelet_state import CheckpointEntry, InvalidCheckpoint, KubeletState, KubeletUnavailable
from mica_device_plugin.slices import SliceStore
from mica_device_plugin.state import AgentState
from mica_device_plugin.values import Holder, Pin, PinnedContainer, PodView, RefusalRecord, SliceKey, SliceOwner, slice_key
from mica_device_plugin.verify import Reason, Refuse, check_gpus, verify
from mica_runtime.kube import KubeError
from mica_runtime.logging import get_logger

MESSAGE_LIMIT: Final = 1000
SLOT_WAIT_S: Final = 5.0
_SLOT_LOOK_S: Final = 0.1
_log = get_logger(__name__)

EditsFor = Callable[[Sequence[GPUShare]], Edits]


class Refused(Exception):
    """The container must not start; kubelet shows the message and asks again."""

    def __init__(self, refuse: Refuse) -> None:
        super().__init__(refuse.message[:MESSAGE_LIMIT])
        self.refuse = refuse


class Undecided(Exception):
    """It cannot be told now (API server or kubelet do not answer); nothing is held against the pod."""


class SlotsInUse(Exception):
    """The kubelet gave out slots whose last owner has not been seen dead yet."""


class Reporter(Protocol):
    """Where words for people go."""

    def warn(self, pod: RefusalRecord) -> None:
        """Tell the pod's owner; must not block."""
        ...


class StartGate:
    """One per process. ``missing`` lists files of the limiter, or host paths, that are not in place.

    ``slot_wait``: seconds to wait for the end of the pod that had the slots before; well below the kubelet's own deadline.
    """

    def __init__(
        self,
        *,
        state: AgentState,
        store: SliceStore,
        kubelet: KubeletState,
        cluster: Cluster,
        edits_for: EditsFor,
        missing: Callable[[Sequence[Path]], list[str]],
        reporter: Reporter,
        slot_wait: float = SLOT_WAIT_S,
    ) -> None:
        self._state = state
        self._store = store
        self._kubelet = kubelet
        self._cluster = cluster
        self._edits_for = edits_for
        self._missing = missing
        self._reporter = reporter
        self._slot_wait = slot_wait

    async def admit(self, ids: Sequence[str]) -> None:
        """Let the container that holds ``ids`` start. Raises Refused, Undecided, OSError."""
        key = slice_key(ids)
        claim = await self._identify(key)
        pod = await self._resolve(claim)
        try:
            await self._start_once_free(key, tuple(sorted(ids)), claim, pod)
        except Refused as refused:
            self._record(refused.refuse, pod, claim.holder.container)
            raise
        if self._state.refusals.pop((pod.uid, claim.holder.container), None):
            _log.info("container may start now", pod=pod.name, namespace=pod.namespace, container=claim.holder.container)
        self._state.changed()

    async def _identify(self, key: SliceKey) -> Claim:
        try:
            assigned = await self._kubelet.assignments()
        except KubeletUnavailable as error:
            raise Undecided(str(error)) from error
        found = identify(key, assigned, await self._checkpoint())
        if isinstance(found, Unlisted):
            found = self._unlisted(found)
        if isinstance(found, NotYet):
            raise Undecided(found.message)
        return found

    def _unlisted(self, found: Unlisted) -> NotYet:
        judged = judge_unlisted(found, self._cluster.pods().values())
        if isinstance(judged, NotYet):
            return judged
        pod, container, refuse = judged
        self._record(refuse, pod, container)
        raise Refused(refuse)

    async def _checkpoint(self) -> tuple[CheckpointEntry, ...] | None:
        try:
            return await self._kubelet.checkpoint()
        except InvalidCheckpoint as error:
            _log.error("kubelet's checkpoint cannot be read; pods are identified by PodResources alone", error=str(error))
            return None

    async def _resolve(self, claim: Claim) -> PodView:
        """The pod from the local copy, from the API server, or, while that is away, from its pin."""
        holder = claim.holder
        cached = self._cluster.pods().get(f"{holder.namespace}/{holder.pod}")
        if cached is not None and claim.allows(cached.uid) and cached.node:
            return cached
        try:
            fetched = await self._cluster.get_pod(holder.namespace, holder.pod)
        except KubeError as error:
            pinned = self._pinned(claim)
            if pinned is None:
                raise Undecided(f"pod {holder.namespace}/{holder.pod} is not known yet: {error}") from error
            return pinned
        if fetched is None or not claim.allows(fetched.uid):
            raise Undecided(f"pod {holder.namespace}/{holder.pod} is not the one that the kubelet is starting")
        return fetched

    def _pinned(self, claim: Claim) -> PodView | None:
        holder = claim.holder
        for pin in self._state.pins.values():
            if (pin.namespace, pin.pod) == (holder.namespace, holder.pod) and claim.uids and pin.pod_uid in claim.uids:
                return PodView(pin.pod_uid, pin.namespace, pin.pod, self._state.node_name, {}, ())
        return None

    async def _start_once_free(self, key: SliceKey, slots: tuple[str, ...], claim: Claim, pod: PodView) -> None:
        """Start, waiting for slots: the kubelet hands them on when containers have ended, before their pod's object says so.

        The lock is free between looks, so that the pod which is waited for can be cleaned up.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._slot_wait
        while True:
            try:
                async with self._state.lock:
                    return await to_the_end(self._start(key, slots, claim, pod))
            except SlotsInUse as in_use:
                if loop.time() >= deadline:
                    raise Undecided(str(in_use)) from in_use
            await asyncio.sleep(_SLOT_LOOK_S)

    async def _start(self, key: SliceKey, slots: tuple[str, ...], claim: Claim, pod: PodView) -> None:
        pin = self._pin_for(pod)
        container = _container(pin, claim.holder, slots)
        _refuse(check_gpus(container.shares, self._state.gpus))
        paths = [Path(p) for p in claim.host_paths.get(pod.uid, ())]
        missing = await asyncio.to_thread(self._missing, paths)
        if missing:
            words = f"the limiter is not in place on this node ({', '.join(missing)}); delete the pod to start it with a new one"
            raise Refused(Refuse(Reason.LIBRARY_MISSING, words))
        await self._claim_key(key, pod)
        pin = replace(pin, containers=tuple(container if c.name == container.name else c for c in pin.containers))
        owner = SliceOwner(pod.uid, container.name)
        if self._state.pins.get(pod.uid) != pin:
            await asyncio.to_thread(self._store.write_pin, pin)
            self._state.pins[pod.uid] = pin
        self._state.owners[key] = owner
        limits = container_limits(pin, container, gpus=self._state.gpus, pool=self._state.pool)
        await asyncio.to_thread(self._store.write_slice, key, limits, self._edits_for(container.shares))

    def _pin_for(self, pod: PodView) -> Pin:
        pin = self._state.pins.get(pod.uid)
        if pin is not None:
            self._warn_of_edits(pin, pod)
            return pin
        outcome = verify(pod=pod, node=self._state.facts(), held=self._state.pins.values())
        if isinstance(outcome, Refuse):
            raise Refused(outcome)
        return Pin(pod.uid, pod.namespace, pod.name, outcome.containers, outcome.compute)

    def _warn_of_edits(self, pin: Pin, pod: PodView) -> None:
        if not pod.containers:
            return
        try:
            now = decode_pod_allocation(pod.annotations, len(pod.containers))
        except InvalidAllocation:
            now = None
        if now is None or tuple(a.shares for a in now) != tuple(c.shares for c in pin.containers):
            message = (
                "the allocation annotations were changed after the pod had started; the decision first verified stays in force"
            )
            self._reporter.warn(RefusalRecord(pod.uid, pod.namespace, pod.name, "", "DecisionChanged", message))

    async def _claim_key(self, key: SliceKey, pod: PodView) -> None:
        owner = self._state.owners.get(key)
        if owner is None or owner.pod_uid == pod.uid:
            return
        alive = any(p.uid == owner.pod_uid and not p.finished for p in self._cluster.pods().values())
        if alive or await asyncio.to_thread(self._store.is_live, key):
            raise SlotsInUse(
                f"the kubelet's slots still belong to container {owner.container} of pod uid {owner.pod_uid}, "
                "which has not been seen to end"
            )
        await asyncio.to_thread(self._store.remove_slice, key)
        del self._state.owners[key]

    def _record(self, refuse: Refuse, pod: PodView, container: str) -> None:
        record = RefusalRecord(pod.uid, pod.namespace, pod.name, container, refuse.reason.value, refuse.message[:MESSAGE_LIMIT])
        self._state.refusals[(pod.uid, container)] = record
        self._reporter.warn(record)
        _log.warning(
            "container is not let start",
            pod=pod.name,
            namespace=pod.namespace,
            container=container,
            reason=record.reason,
            message=record.message,
        )
        self._state.changed()


def _container(pin: Pin, holder: Holder, slots: tuple[str, ...]) -> PinnedContainer:
    container = pin.container(holder.container)
    if container is None:
        words = f"container {holder.container} is not an app container of the pod; slices on init containers are not supported"
        raise Refused(Refuse(Reason.UNKNOWN_CONTAINER, words))
    if len(container.shares) != len(slots):
        words = f"container {holder.container}: {len(slots)} slots from the kubelet, {len(container.shares)} GPUs decided"
        raise Refused(Refuse(Reason.NOT_AS_REQUESTED, words))
    return replace(container, slots=slots)


def _refuse(refuse: Refuse | None) -> None:
    if refuse is not None:
        raise Refused(refuse)
