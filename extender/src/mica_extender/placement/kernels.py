"""Verdicts and scores of many nodes for one shape: the C kernel, or numpy where it is not there. Both answer byte for byte alike.

``fit.py`` and ``score.py`` say what is right; the property tests hold both kernels to them. A kernel answers UNDECIDED where only
``fit.py`` can tell: several asking containers that each fit by themselves.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from mica_api.compute import PRIORITIES, rank
from mica_api.policies import NODE_POLICIES
from mica_api.request import ContainerRequest
from mica_extender.placement.check import PRECEDENCE
from mica_extender.placement.fit import asking_order
from mica_extender.placement.fleet import CORDONED, HEALTHY, Bytes, Fleet, Int32, Int64
from mica_extender.placement.model import Code, Shape
from mica_runtime.native import sources_digest

CODES: Final[tuple[Code | None, ...]] = (
    None,
    Code.UNREGISTERED,
    Code.NOT_HEALTHY,
    Code.CORDONED,
    Code.TYPE_MISMATCH,
    Code.UUID_MISMATCH,
    Code.SLICES_EXHAUSTED,
    Code.EXCLUSIVE_CONFLICT,
    Code.INSUFFICIENT_MEMORY,
    Code.INSUFFICIENT_CORE,
    Code.NUMA_NOT_FIT,
    Code.INSUFFICIENT_DEVICE,
    Code.COMPUTE_NOT_ALLOWED,
)
"""Meaning of a kernel's codes by number; 0 is "fits"."""
FITS: Final = 0
UNDECIDED: Final = 255
MAX_NODE_CARDS: Final = 64
"""Cards of a node that a kernel decides about; larger nodes are UNDECIDED."""
_NUMBERS: Final = {code: number for number, code in enumerate(CODES) if code is not None}
_PRECEDENCE: Final = tuple(_NUMBERS[code] for code in PRECEDENCE)
_DIRECTORY: Final = Path(__file__).parent / "kernel"
_LIBRARY: Final = "libplacement.so"


class KernelMissing(Exception):
    """There is no usable C kernel; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """By node: a code's number (FITS, UNDECIDED or an index of CODES), and whether no slice that ends could change it."""

    codes: Bytes
    permanent: Bytes


class Kernel(Protocol):
    """Decides about many nodes at once."""

    name: str
    at_once: int
    """Nodes after which others should have a turn: one or two milliseconds."""

    def evaluate(self, fleet: Fleet, shape: CompiledShape, rows: Int32) -> Verdicts:
        """Verdicts of the nodes in these rows of the fleet; row -1 is a node that is not known."""
        ...


class _Container(ctypes.Structure):
    _fields_ = (
        ("memory_mib", ctypes.c_int64),
        ("memory_percent", ctypes.c_int32),
        ("number", ctypes.c_int32),
        ("cores", ctypes.c_int32),
        ("exclusive", ctypes.c_int32),
    )


class _Shape(ctypes.Structure):
    _fields_ = (
        ("container", ctypes.c_void_p),
        ("containers", ctypes.c_int32),
        ("node_policy", ctypes.c_int32),
        ("card_policy", ctypes.c_int32),
        ("weights", ctypes.c_int32 * 3),
        ("cpu_milli", ctypes.c_int64),
        ("mutex", ctypes.c_int32),
        ("together", ctypes.c_int32),
        ("numa_bind", ctypes.c_int32),
        ("compute_class", ctypes.c_int32),
        ("compute_weight", ctypes.c_int32),
        ("model_ok", ctypes.c_void_p),
        ("card_ok", ctypes.c_void_p),
    )


_FLEET_COLUMNS: Final = (
    *("first_card", "card_count", "ready", "node_policy", "card_policy", "mutex"),
    *("weight_slot", "weight_core", "weight_memory", "highest_class", "max_weight", "cpu_left", "version"),
    *("memory_mib", "capacity_mib", "used_mib", "core_capacity", "used_cores", "slices", "card_max_slices", "flags"),
    *("model", "numa"),
)


class _Fleet(ctypes.Structure):
    _fields_ = (
        ("node_rows", ctypes.c_int64),
        ("card_rows", ctypes.c_int64),
        *((column, ctypes.c_void_p) for column in _FLEET_COLUMNS),
    )


class CompiledShape:
    """A shape in the words of one fleet: which of its models and cards are accepted. Compiled again when the layout changes."""

    def __init__(self, shape: Shape, fleet: Fleet) -> None:
        self.shape = shape
        self.containers: tuple[ContainerRequest, ...] = asking_order(shape)
        choice = shape.selection.compute
        self.compute_class = rank(choice.priority or PRIORITIES[0])
        self.compute_weight = choice.weight or 0
        self._compile(fleet)

    def refresh(self, fleet: Fleet) -> CompiledShape:
        """This shape, fit for the fleet as it is now."""
        if self.layout != fleet.layout:
            self._compile(fleet)
        return self

    def _compile(self, fleet: Fleet) -> None:
        selection = self.shape.selection
        self.layout = fleet.layout
        self.model_ok: Bytes = np.array([selection.accepts_model(model) for model in fleet.models] or [False], np.uint8)
        self.card_ok: Bytes | None = None
        if selection.use_uuids or selection.avoid_uuids:
            self.card_ok = np.array([selection.accepts_uuid(uuid) for uuid in fleet.uuids] or [False], np.uint8)
        self.native = self._native(fleet)

    def _native(self, fleet: Fleet) -> _Shape:
        selection = self.shape.selection
        self._array = (_Container * len(self.containers))(
            *(_Container(c.memory_mib, c.memory_percent, c.number, c.cores, c.exclusive) for c in self.containers)
        )
        own = selection.weights
        weights = (ctypes.c_int32 * 3)(*((own.slot, own.core, own.memory) if own else (0, 0, 0)))
        return _Shape(
            container=ctypes.addressof(self._array),
            containers=len(self.containers),
            node_policy=NODE_POLICIES.index(selection.node_policy) if selection.node_policy else -1,
            weights=weights,
            cpu_milli=self.shape.cpu_milli,
            mutex="mutex" in selection.gpu_policy if selection.gpu_policy else -1,
            together=not any(one.container.asks for one in self.shape.request.init),
            numa_bind=selection.numa_bind,
            compute_class=self.compute_class,
            compute_weight=self.compute_weight,
            card_policy=fleet.card_policy_id(selection.gpu_policy) if selection.gpu_policy else -1,
            model_ok=self.model_ok.ctypes.data,
            card_ok=None if self.card_ok is None else self.card_ok.ctypes.data,
        )


class NativeKernel:
    """The C kernel."""

    name = "native"
    at_once = 8192

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._evaluate = library.mica_evaluate
        self._evaluate.restype = None

    def evaluate(self, fleet: Fleet, shape: CompiledShape, rows: Int32) -> Verdicts:
        """See Kernel."""
        count = len(rows)
        codes, permanent = np.empty(count, np.uint8), np.empty(count, np.uint8)
        rows = np.ascontiguousarray(rows, np.int32)
        self._evaluate(
            ctypes.byref(native_fleet(fleet)),
            ctypes.byref(shape.refresh(fleet).native),
            *(pointer(rows), ctypes.c_int64(count), pointer(codes), pointer(permanent)),
        )
        return Verdicts(codes, permanent)


class NumpyKernel:
    """The same answers without a compiler, at several times the cost."""

    name = "numpy"
    at_once = 1024

    def evaluate(self, fleet: Fleet, shape: CompiledShape, rows: Int32) -> Verdicts:
        """See Kernel."""
        shape.refresh(fleet)
        codes = np.full(len(rows), _NUMBERS[Code.UNREGISTERED], np.uint8)
        permanent = np.ones(len(rows), np.uint8)
        known = np.flatnonzero(rows >= 0)
        permanent[known] = 0
        ready = known[fleet.ready[rows[known]] != 0]
        allowed = (fleet.highest_class[rows[ready]] >= shape.compute_class) & (
            fleet.max_weight[rows[ready]] >= shape.compute_weight
        )
        codes[ready[~allowed]], permanent[ready[~allowed]] = _NUMBERS[Code.COMPUTE_NOT_ALLOWED], 1
        ready = ready[allowed]
        small = fleet.card_count[rows[ready]] <= MAX_NODE_CARDS
        codes[ready[~small]] = UNDECIDED
        ready = ready[small]
        if not shape.containers:
            codes[ready] = FITS
        elif len(ready):
            codes[ready], permanent[ready] = _decide(fleet, shape, rows[ready])
        return Verdicts(codes, permanent)


def load_native(directory: Path = _DIRECTORY) -> NativeKernel:
    """The C kernel of this package. Raises KernelMissing."""
    path = directory / _LIBRARY
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelMissing(f"no placement kernel for this machine, run `make kernel`: {error}") from error
    library.mica_kernel_digest.restype = ctypes.c_char_p
    built_from: bytes = library.mica_kernel_digest()
    if built_from.decode() != sources_digest(directory):
        raise KernelMissing(f"{path} was built from other sources than those beside it, run `make kernel`")
    return NativeKernel(library)


def native_fleet(fleet: Fleet) -> _Fleet:
    """The fleet's columns as the C kernel sees them; valid until the fleet changes."""
    known = _NATIVE.get(fleet)
    if known is None or known[0] != fleet.placing:
        columns: list[npt.NDArray[Any]] = [getattr(fleet, column) for column in _FLEET_COLUMNS]
        known = _NATIVE[fleet] = (fleet.placing, _Fleet(0, 0, *(column.ctypes.data for column in columns)))
    native = known[1]
    native.node_rows, native.card_rows = fleet.node_rows, fleet.card_rows
    return native


_NATIVE: Final[WeakKeyDictionary[Fleet, tuple[int, _Fleet]]] = WeakKeyDictionary()
"""Addresses of a fleet's columns, and where the columns were then (``Fleet.placing``)."""


def pointer(array: Any) -> Any:
    """Argument for the C kernel: where a contiguous, writable array begins. Keeps it alive; a fifth of what numpy's takes."""
    return ctypes.byref(ctypes.c_char.from_buffer(array)) if len(array) else None


def card_codes(fleet: Fleet, shape: CompiledShape, wanted: ContainerRequest, cards: Int64, mutex: npt.NDArray[np.bool_]) -> Bytes:
    """``check.check_card`` of card rows: FITS or the first check that fails. ``mutex`` is said for each card."""
    physical, used = fleet.memory_mib[cards], fleet.used_mib[cards]
    memory = _memory_on(wanted, physical)
    capacity, cores, used_cores = fleet.capacity_mib[cards], fleet.core_capacity[cards], fleet.used_cores[cards]
    slices = fleet.slices[cards]
    codes = np.zeros(len(cards), np.uint8)
    # From the last check to the first: the first that fails is what stays.
    codes[(used_cores >= cores) | (used_cores + wanted.cores > cores)] = _NUMBERS[Code.INSUFFICIENT_CORE]
    codes[(memory < 1) | (memory > physical) | (used + memory > capacity)] = _NUMBERS[Code.INSUFFICIENT_MEMORY]
    taken = (slices != 0) | (used != 0) | (used_cores != 0)
    codes[taken if wanted.exclusive else taken & mutex] = _NUMBERS[Code.EXCLUSIVE_CONFLICT]
    codes[slices >= fleet.card_max_slices[cards]] = _NUMBERS[Code.SLICES_EXHAUSTED]
    if shape.card_ok is not None:
        codes[shape.card_ok[cards] == 0] = _NUMBERS[Code.UUID_MISMATCH]
    codes[shape.model_ok[fleet.model[cards]] == 0] = _NUMBERS[Code.TYPE_MISMATCH]
    codes[(fleet.flags[cards] & CORDONED) != 0] = _NUMBERS[Code.CORDONED]
    codes[(fleet.flags[cards] & HEALTHY) == 0] = _NUMBERS[Code.NOT_HEALTHY]
    return codes


def cards_of(fleet: Fleet, rows: npt.NDArray[np.signedinteger]) -> tuple[Int64, Int64]:
    """Card rows of the nodes in these rows, one after the other, and for each the position of its node in ``rows``."""
    counts = fleet.card_count[rows]
    owner = np.repeat(np.arange(len(rows)), counts)
    starts = np.cumsum(counts) - counts
    return np.arange(len(owner)) - np.repeat(starts, counts) + np.repeat(fleet.first_card[rows], counts), owner


def mutex_of(fleet: Fleet, shape: CompiledShape, rows: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.bool_]:
    """Whether the card policy that counts on each node, the pod's own or the node's, holds mutex."""
    own = shape.shape.selection.gpu_policy
    return np.full(len(rows), "mutex" in own) if own else fleet.mutex[rows] != 0


def _decide(fleet: Fleet, shape: CompiledShape, rows: Int32) -> tuple[Bytes, Bytes]:
    """Codes and permanence of ready nodes for the container that is placed first."""
    wanted, nodes = shape.containers[0], len(rows)
    cards, owner = cards_of(fleet, rows)
    found = card_codes(fleet, shape, wanted, cards, mutex_of(fleet, shape, rows)[owner])
    tally = np.bincount(owner * len(CODES) + found, minlength=nodes * len(CODES)).reshape(nodes, len(CODES))
    enough = tally[:, FITS] >= wanted.number
    fits = _most_usable(fleet, shape, cards, owner, found == FITS, nodes) >= wanted.number
    tally[enough & ~fits, _NUMBERS[Code.NUMA_NOT_FIT]] = 1
    codes = _spoken(tally)
    possible = _most_usable(fleet, shape, cards, owner, _could_ever(fleet, shape, wanted, cards), nodes)
    permanent = (possible < wanted.number).astype(np.uint8)
    codes[fleet.card_count[rows] < wanted.number] = _NUMBERS[Code.INSUFFICIENT_DEVICE]
    codes[fits] = FITS if len(shape.containers) == 1 else UNDECIDED
    permanent[fits] = 0
    return codes, permanent


def _spoken(tally: Int64) -> Bytes:
    """``check.spoken``: of the codes that a node's cards gave the first by precedence."""
    codes = np.full(len(tally), _NUMBERS[Code.INSUFFICIENT_DEVICE], np.uint8)
    for number in reversed(_PRECEDENCE):
        codes[tally[:, number] > 0] = number
    return codes


def _most_usable(
    fleet: Fleet, shape: CompiledShape, cards: Int64, owner: Int64, marked: npt.NDArray[np.bool_], nodes: int
) -> Int64:
    """``check.most_usable`` of the marked cards of each node."""
    if not shape.shape.selection.numa_bind or not len(cards):
        return np.bincount(owner[marked], minlength=nodes)
    kinds, numa = np.unique(fleet.numa[cards], return_inverse=True)
    count = np.bincount(owner[marked] * len(kinds) + numa[marked], minlength=nodes * len(kinds))
    most: Int64 = count.reshape(nodes, len(kinds)).max(axis=1)
    return most


def _could_ever(fleet: Fleet, shape: CompiledShape, wanted: ContainerRequest, cards: Int64) -> npt.NDArray[np.bool_]:
    """``check.could_ever``: whether each card could take the container if it were empty, healthy and not cordoned."""
    physical = fleet.memory_mib[cards]
    memory = _memory_on(wanted, physical)
    able: npt.NDArray[np.bool_] = (shape.model_ok[fleet.model[cards]] != 0) & (memory >= 1) & (memory <= physical)
    able &= (memory <= fleet.capacity_mib[cards]) & (fleet.core_capacity[cards] >= wanted.cores)
    return able if shape.card_ok is None else able & (shape.card_ok[cards] != 0)


def _memory_on(wanted: ContainerRequest, physical: Int64) -> Int64:
    if wanted.memory_percent:
        return physical * wanted.memory_percent // 100
    return np.full(len(physical), wanted.memory_mib, np.int64) if wanted.memory_mib else physical
