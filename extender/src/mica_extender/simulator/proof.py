"""Books of a simulation kept beside the engine's, to prove it right: what is placed was free, what is refused fits nowhere.

Nothing of the engine's decision code is used: not its fleet, filter, kernels nor charges. A failed pod is tried on every node.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from mica_api.allocation import GPUShare
from mica_api.request import ContainerRequest
from mica_extender.simulator.model import Job, Machine


class Overcommitted(AssertionError):
    """A decision that cannot be right."""


class Books:
    """What is left of every machine and card. Matrices are machines × cards, with nothing left where there is no card."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self._machines = machines
        self._at = {machine.state.name: row for row, machine in enumerate(machines)}
        self._card = {card.uuid: (row, at) for row, m in enumerate(machines) for at, card in enumerate(m.state.cards)}
        endless = 1 << 60
        self._cpu = np.array([_left(m) if m.cpu_milli >= 0 else endless for m in machines], np.int64)
        self._memory = np.array([m.memory_mib if m.memory_mib >= 0 else endless for m in machines], np.int64)
        shape = (len(machines), max(len(machine.state.cards) for machine in machines))
        self._physical, self._mib, self._cores, self._full = (np.zeros(shape, np.int64) for _ in range(4))
        self._slots, self._slices = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._usable = np.zeros(shape, np.bool_)
        self._models: dict[str, list[tuple[int, int]]] = {}
        for uuid, (row, at) in self._card.items():
            card, node = machines[row].state.cards[at], machines[row].state
            assert card.uuid == uuid
            self._physical[row, at], self._mib[row, at] = card.memory_mib, (card.capacity_mib or card.memory_mib) - card.used_mib
            self._full[row, at], self._cores[row, at] = card.core_capacity, card.core_capacity - card.used_cores
            self._slices[row, at], self._slots[row, at] = card.slices, (card.max_slices or node.max_slices)
            self._usable[row, at] = card.healthy and not card.cordoned and node.ready
            self._models.setdefault(card.model, []).append((row, at))

    def take(self, job: Job, node: str, shares: Sequence[Sequence[GPUShare]]) -> None:
        """Write a placement down. Raises Overcommitted for one that takes what is not there or is not what the pod asked for."""
        row = self._at[node]
        self._cpu[row] -= job.shape.cpu_milli
        self._memory[row] -= job.memory_mib
        if self._cpu[row] < 0 or self._memory[row] < 0:
            raise Overcommitted(f"{job.name} was put on {node}, which has not enough CPU or memory")
        for wanted, given in zip(job.shape.request.containers, shares, strict=True):
            places = [self._card[share.uuid] for share in given]
            if len(set(places)) != wanted.number or any(owner != row for owner, _ in places):
                raise Overcommitted(f"{job.name} asks for {wanted.number} GPUs of one node and got {given} on {node}")
            room = self._room(job, wanted) if places else None
            for place in places:
                if room is None or not room[place]:
                    raise Overcommitted(f"{job.name} was put on {node}, where card {place[1]} has no room for it")
                self._charge(place, wanted)

    def fits_on(self, job: Job) -> str | None:
        """A machine on which the pod fits, or None when there is none at all: every machine is looked at."""
        asking = [one for one in job.shape.request.containers if one.asks]
        able = (self._cpu >= job.shape.cpu_milli) & (self._memory >= job.memory_mib)
        for wanted in asking:
            able &= self._room(job, wanted).sum(axis=1) >= wanted.number
        for row in np.flatnonzero(able).tolist():
            if len(asking) < 2 or self._together(job, asking, row):
                return self._machines[row].state.name
        return None

    def _room(self, job: Job, wanted: ContainerRequest) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Which cards could take one slice of the container."""
        selection = job.shape.selection
        memory = self._physical * wanted.memory_percent // 100 if wanted.memory_percent else wanted.memory_mib or self._physical
        room = self._usable & (self._mib >= memory) & (self._physical >= memory) & (self._slices < self._slots)
        room &= (self._cores > 0) & (self._cores >= wanted.cores)
        if wanted.cores == 100:
            room &= self._slices == 0
        for model, places in self._models.items():
            if not selection.accepts_model(model):
                room[tuple(np.array(places).T)] = False
        for uuid in self._card if selection.use_uuids or selection.avoid_uuids else ():
            room[self._card[uuid]] &= selection.accepts_uuid(uuid)
        return room

    def _charge(self, place: tuple[int, int], wanted: ContainerRequest) -> None:
        self._mib[place] -= wanted.memory_on(int(self._physical[place]))
        self._cores[place] -= self._full[place] if wanted.cores == 100 else wanted.cores
        self._slices[place] += 1

    def _together(self, job: Job, asking: Sequence[ContainerRequest], row: int) -> bool:
        """All combinations of cards for several containers of one pod, one container after the other."""
        wanted, rest = asking[0], asking[1:]
        for chosen in combinations(np.flatnonzero(self._room(job, wanted)[row]).tolist(), wanted.number):
            places = [(row, at) for at in chosen]
            kept = [(self._mib[p], self._cores[p], self._slices[p]) for p in places]
            for place in places:
                self._charge(place, wanted)
            found = not rest or self._together(job, rest, row)
            for place, (mib, cores, slices) in zip(places, kept, strict=True):
                self._mib[place], self._cores[place], self._slices[place] = mib, cores, slices
            if found:
                return True
        return False


def _left(machine: Machine) -> int:
    return machine.cpu_milli if machine.state.cpu_left < 0 else machine.state.cpu_left
