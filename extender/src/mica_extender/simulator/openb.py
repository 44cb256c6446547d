"""Reader of the openb trace (Alibaba cluster-trace-gpu-v2023) and the arrivals that its replay protocol makes of it.

GPUs are cards of 1,000 MiB, so that a pod's ``gpu_milli`` is exactly that many MiB; a pod of whole GPUs asks for cores 100. A bad
row is refused with file, line and column.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mica_api.request import MAX_CORES, MAX_NUMBER, ContainerRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement.model import Card, NodeState, Shape
from mica_extender.simulator.model import BadInput, Job, Machine, Scenario
from mica_extender.simulator.text import read_text

NODES: Final = "openb_node_list_gpu_node.csv"
MILLI: Final = 1000
MAX_SLICES: Final = 1000
"""Slices are not limited in the trace: as many as the smallest possible ones."""
_NODE_COLUMNS: Final = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
_POD_COLUMNS: Final = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
_LARGEST: Final = 10**9
_DIGITS: Final = 100
_SHOWN: Final = 40
"""Characters of a wrong number that are repeated."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Nodes in the file's order, pods by name."""

    machines: tuple[Machine, ...]
    jobs: tuple[Job, ...]

    @property
    def gpu_milli(self) -> int:
        """Capacity in thousandths of a GPU."""
        return MILLI * sum(len(machine.state.cards) for machine in self.machines)


def read_trace(folder: Path, pods: str = "default") -> Trace:
    """The nodes and one pod list, ``openb_pod_list_<pods>.csv``. Raises BadInput."""
    machines = tuple(_machine(row) for row in _rows(folder / NODES, _NODE_COLUMNS))
    if not machines:
        raise BadInput(f"{folder / NODES}: there are no nodes in it")
    models = {card.model for machine in machines for card in machine.state.cards}
    jobs = [_job(row, models) for row in _rows(folder / f"openb_pod_list_{pods}.csv", _POD_COLUMNS)]
    if not sum(job.gpu_milli for job in jobs):
        raise BadInput(f"{folder / f'openb_pod_list_{pods}.csv'}: no pod in it asks for a GPU")
    return Trace(machines, tuple(sorted(jobs, key=lambda job: job.name)))


def arrivals(trace: Trace, *, seed: int, load: float) -> Scenario:
    """What comes: pods by name, shuffled, then pods taken out or cloned at random until they ask for ``load`` times the capacity.

    The protocol of the FGD simulator (Weng et al., ATC'23); the random generator is Python's, so that compare means. Nodes are
    permuted as well: it is the order in which kube-scheduler walks over them.
    """
    rng = random.Random(seed)
    machines = list(trace.machines)
    rng.shuffle(machines)
    jobs = list(trace.jobs)
    rng.shuffle(jobs)
    goal = int(load * trace.gpu_milli)
    total = sum(job.gpu_milli for job in jobs)
    while total > goal:
        total -= jobs.pop(rng.randrange(len(jobs))).gpu_milli
    clones = 0
    while True:
        job = rng.choice(trace.jobs)
        if total + _of_one_gpu(job) > goal:
            return Scenario(tuple(machines), tuple(jobs), trace.gpu_milli)
        total += job.gpu_milli
        clones += 1
        jobs.append(Job(f"{job.name}-clone-{clones}", job.shape, job.gpu_milli, job.memory_mib))


def _of_one_gpu(job: Job) -> int:
    number = sum(container.number for container in job.shape.request.containers)
    return job.gpu_milli // number if number else 0


@dataclass(frozen=True, slots=True)
class _Row:
    """One row; a value that cannot be meant raises BadInput with its place."""

    path: Path
    line: int
    values: dict[str, str]
    columns: tuple[str, ...]

    def bad(self, column: str, problem: str) -> BadInput:
        at = self.columns.index(column) + 1
        return BadInput(f"{self.path}, line {self.line}, column {at} ({column}): {problem}")

    def text(self, column: str) -> str:
        value = self.values[column].strip()
        if not value:
            raise self.bad(column, "it is empty")
        return value

    def number(self, column: str, *, least: int = 0, most: int = _LARGEST) -> int:
        written = self.values[column].strip()
        digits = written.isascii() and written.isdigit() and len(written) <= _DIGITS
        if not digits or not least <= int(written) <= most:
            raise self.bad(column, f"{written[:_SHOWN]!r} is not a whole number from {least} to {most}")
        return int(written)


def _rows(path: Path, needed: Sequence[str]) -> Iterator[_Row]:
    text = read_text(path, help_="; the folder of the trace has the node list and openb_pod_list_*.csv")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = tuple(next(reader, ()))
        for column in needed:
            if column not in columns:
                raise BadInput(f"{path}, line 1: there is no column {column}; the columns are {', '.join(columns) or 'none'}")
        twice = next((at for at, column in enumerate(columns, start=1) if column in columns[: at - 1]), 0)
        if twice:
            raise BadInput(f"{path}, line 1, column {twice}: {columns[twice - 1]} is a column already")
        seen: dict[str, int] = {}
        for values in reader:
            if len(values) != len(columns):
                problem = f"{len(values)} values in a row, {len(columns)} columns in the header"
                raise BadInput(f"{path}, line {reader.line_num}, column {min(len(values), len(columns)) + 1}: {problem}")
            row = _Row(path, reader.line_num, dict(zip(columns, values, strict=True)), columns)
            first = seen.setdefault(row.text(needed[0]), row.line)
            if first != row.line:
                raise row.bad(needed[0], f"{row.text(needed[0])} is in line {first} already")
            yield row
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: {error}") from error


def _machine(row: _Row) -> Machine:
    name, model = row.text("sn"), row.text("model")
    cards = tuple(Card(f"{name}/{at}", at, model, MILLI) for at in range(row.number("gpu", least=1, most=64)))
    cpu = row.number("cpu_milli")
    state = NodeState(name, MAX_SLICES, cards, "fragmentation", ("fragmentation",), cpu_total=cpu, cpu_left=cpu)
    return Machine(state, cpu, row.number("memory_mib"))


def _job(row: _Row, models: set[str]) -> Job:
    number, milli = row.number("num_gpu", most=MAX_NUMBER), row.number("gpu_milli", most=MILLI)
    if number and not milli:
        raise row.bad("gpu_milli", f"the pod asks for {number} GPUs and for nothing of each")
    if number > 1 and milli < MILLI:
        raise row.bad("gpu_milli", f"a pod of {number} GPUs takes whole ones in this trace, not {milli} thousandths of each")
    wanted = ContainerRequest("main", number, MAX_CORES if milli == MILLI else 0, 0 if milli == MILLI else milli)
    accepted = [part for part in row.values.get("gpu_spec", "").split("|") if part]
    for part in accepted:
        if part not in models:
            raise row.bad("gpu_spec", f"no node has the model {part!r}; the models are {', '.join(sorted(models))}")
    request = PodRequest((wanted if number else ContainerRequest("main"),))
    selection = Selection(use_models=frozenset(part.lower() for part in accepted) if number else frozenset())
    shape = Shape(request, selection, row.number("cpu_milli"))
    return Job(row.text("name"), shape, number * milli, row.number("memory_mib"))
