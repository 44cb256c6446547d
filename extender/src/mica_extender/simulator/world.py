"""The cluster of a simulation: the engine's fleet, and what kube-scheduler counts besides. Row i is machine i.

``sieve`` is what kube-scheduler's own filters say before an extender is asked: CPU, memory, the model as a node selector would
ask for it, and the sums over the node of slices, GPU memory and cores, which are extended resources.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mica_api.request import MAX_CORES
from mica_extender.placement.charge import charges
from mica_extender.placement.fleet import Fleet, Int64
from mica_extender.placement.model import Placement, Shape
from mica_extender.simulator.model import Job, Machine

Mask = npt.NDArray[np.bool_]


class World:
    """Machines and what is taken of them. Changes only by ``place``."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self.machines = machines
        self.fleet = Fleet(machine.state for machine in machines)
        self.memory_left: Int64 = np.array([machine.memory_mib for machine in machines], np.int64)
        self.cpu_left: Int64 = np.array(
            [machine.cpu_milli if machine.state.cpu_left < 0 else machine.state.cpu_left for machine in machines], np.int64
        )
        self._cpu_counts: Mask = np.array([machine.cpu_milli >= 0 for machine in machines], np.bool_)
        self._memory_counts: Mask = self.memory_left >= 0
        self._free = np.array([self._sums(row) for row in range(len(machines))], np.int64).reshape(len(machines), 3)
        self._models = [frozenset(card.model for card in machine.state.cards) for machine in machines]
        self._accepting: dict[tuple[frozenset[str], frozenset[str]], Mask] = {}

    def sieve(self, job: Job) -> Mask:
        """Machines that kube-scheduler itself would not rule out."""
        passed: Mask = (self.cpu_left >= job.shape.cpu_milli) | ~self._cpu_counts
        passed = passed & ((self.memory_left >= job.memory_mib) | ~self._memory_counts)
        asking = [one for one in job.shape.request.containers if one.asks]
        if asking:
            slices = sum(one.number for one in asking)
            memory = sum(one.number * one.memory_mib for one in asking)
            cores = sum(one.number * one.cores for one in asking)
            passed &= self._accepts(job.shape) & (self._free >= (slices, memory, cores)).all(axis=1)
        return passed

    def place(self, job: Job, row: int, placement: Placement) -> None:
        """Take what the pod takes."""
        state = self.fleet.state(row)
        taken = charges(job.shape.request, placement, state.cards)
        for at, card in enumerate(state.cards):
            if amounts := taken.get(card.uuid):
                self.fleet.charge(row, at, memory_mib=amounts.memory_mib, cores=amounts.cores, slices=amounts.slices)
        self.cpu_left[row] -= job.shape.cpu_milli
        self.memory_left[row] -= job.memory_mib
        if state.cpu_left >= 0 and job.shape.cpu_milli:
            self.fleet.set_cpu_left(row, state.cpu_left - job.shape.cpu_milli)
        self._free[row] = self._sums(row)

    def gpus_in_use(self) -> int:
        """Cards that hold a slice."""
        return int((self.fleet.slices[: self.fleet.card_rows] > 0).sum())

    def _sums(self, row: int) -> tuple[int, int, int]:
        fleet = self.fleet
        cards = slice(int(fleet.first_card[row]), int(fleet.first_card[row]) + int(fleet.card_count[row]))
        slices = (fleet.card_max_slices[cards] - fleet.slices[cards]).sum()
        memory = (fleet.capacity_mib[cards] - fleet.used_mib[cards]).sum()
        cores = (
            fleet.core_capacity[cards] - np.where(fleet.used_cores[cards] > MAX_CORES, MAX_CORES, fleet.used_cores[cards])
        ).sum()
        return int(slices), int(memory), int(cores)

    def _accepts(self, shape: Shape) -> Mask:
        selection = shape.selection
        key = (selection.use_models, selection.avoid_models)
        known = self._accepting.get(key)
        if known is None:
            known = np.array([any(map(selection.accepts_model, models)) for models in self._models], np.bool_)
            self._accepting[key] = known
        return known
