"""Values of a simulation: machines, pods, what became of each pod. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from mica_api.allocation import GPUShare
from mica_extender.placement.model import NodeState, Shape


class BadInput(ValueError):
    """An input cannot be meant as written; the message names file, line and column, and says what to change."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A node with what kube-scheduler knows of it. CPU in milli and memory in MiB; -1 means that it is not enforced."""

    state: NodeState
    cpu_milli: int = -1
    memory_mib: int = -1


@dataclass(frozen=True, slots=True)
class Job:
    """A pod. ``gpu_milli`` is what it counts for, in thousandths of a GPU over all its GPUs; CPU is in the shape."""

    name: str
    shape: Shape
    gpu_milli: int
    memory_mib: int = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Machines in kube-scheduler's order and pods in the order in which they come. ``gpu_milli`` is the capacity."""

    machines: tuple[Machine, ...]
    jobs: tuple[Job, ...]
    gpu_milli: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one pod: its node and the shares of each container, or why it failed.

    ``refused``: it failed although it fits on a node.
    """

    job: Job
    node: str = ""
    shares: tuple[tuple[GPUShare, ...], ...] = ()
    reason: str = ""
    refused: bool = False

    @property
    def cards(self) -> tuple[str, ...]:
        """UUIDs of the cards, each once, in the order of the containers."""
        return tuple(dict.fromkeys(share.uuid for shares in self.shares for share in shares))


@dataclass(frozen=True, slots=True)
class Result:
    """One replay. All amounts in thousandths of a GPU; ``allocated`` by pod, after it."""

    policy: str
    seed: int
    capacity: int
    decisions: tuple[Decision, ...]
    arrived: tuple[int, ...]
    allocated: tuple[int, ...]
    gpus_in_use: int
    idle: tuple[tuple[str, int], ...] = ()

    def allocation_at(self, load: float) -> float:
        """Percent of the capacity that is allocated when pods for ``load`` times the capacity have come."""
        done = 0
        for arrived, allocated in zip(self.arrived, self.allocated, strict=True):
            done = allocated
            if arrived >= load * self.capacity:
                break
        return 100 * done / self.capacity

    @property
    def failed(self) -> int:
        """Pods that were not placed."""
        return sum(1 for one in self.decisions if not one.node)

    @property
    def refused(self) -> int:
        """Pods that failed although they fit: feasible but refused."""
        return sum(1 for one in self.decisions if one.refused)
