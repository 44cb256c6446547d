"""Names out of the scheduler's requests and answers out of verdicts, as bytes: in C, or in Python where the kernel is not there.

Encoding thousands of names and reasons costs more than deciding, so no Python object is made for a node. Both write the same.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
import numpy as np

from mica_extender.placement.fleet import Bytes, Fleet, Int32, Int64
from mica_extender.placement.kernels import CODES, FITS, Kernel, NativeKernel, pointer

REASONS: Final[tuple[str, ...]] = tuple("" if code is None else str(code) for code in CODES)
"""What an answer says for each of the kernels' codes."""
_LISTS_KEPT: Final = 8
_LARGEST_KEPT: Final = 2**20
_names: Final = msgspec.json.Decoder(list[str]).decode
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class NameList:
    """Names of nodes as a request has them: their rows in the fleet (-1: not known), and each as JSON.

    The JSON of name ``i`` is ``raw[starts[i]:ends[i]]``. ``naming`` is the fleet's at the time.
    """

    raw: bytes
    rows: Int32
    starts: Int32
    ends: Int32
    naming: int

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self) -> list[bytes]:
        """Every name as JSON."""
        raw = self.raw
        return [raw[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]


class Answers(Protocol):
    """Reads lists of names and writes answers."""

    def read_names(self, fleet: Fleet, raw: bytes) -> NameList:
        """A JSON array of names. Raises msgspec.DecodeError (or UnicodeDecodeError, RecursionError) for anything else."""
        ...

    def filter_answer(self, names: NameList, codes: Bytes, permanent: Bytes, reasons: Sequence[str] = REASONS) -> bytes:
        """Nodes that fit, that do not now, and that never will; a code is a number of ``reasons``."""
        ...

    def priorities(self, names: NameList, scores: Int64) -> bytes:
        """The score of each node."""
        ...


class PythonAnswers:
    """Without the kernel."""

    def read_names(self, fleet: Fleet, raw: bytes) -> NameList:
        """See Answers."""
        return list_names(fleet, _names(raw))

    def filter_answer(self, names: NameList, codes: Bytes, permanent: Bytes, reasons: Sequence[str] = REASONS) -> bytes:
        """See Answers."""
        said = [_encode(reason) for reason in reasons]
        fitting: list[bytes] = []
        failed: tuple[list[bytes], list[bytes]] = ([], [])
        for name, code, never in zip(names.encoded(), codes.tolist(), permanent.tolist(), strict=True):
            if code == FITS:
                fitting.append(name)
            else:
                failed[bool(never)].append(name + b":" + said[code])
        return b'{"Nodes":null,"NodeNames":[%b],"FailedNodes":{%b},"FailedAndUnresolvableNodes":{%b},"Error":""}' % (
            b",".join(fitting),
            b",".join(failed[0]),
            b",".join(failed[1]),
        )

    def priorities(self, names: NameList, scores: Int64) -> bytes:
        """See Answers."""
        pairs = zip(names.encoded(), scores.tolist(), strict=True)
        return b"[%b]" % b",".join(b'{"Host":%b,"Score":%d}' % pair for pair in pairs)


class _NameIndex(ctypes.Structure):
    _fields_ = (
        ("text", ctypes.c_char_p),
        ("at", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("mask", ctypes.c_int64),
        ("rows", ctypes.c_int64),
    )


class _Reasons(ctypes.Structure):
    _fields_ = (("text", ctypes.c_char_p), ("at", ctypes.c_void_p))


class _Said:
    """Reasons as the C kernel writes them. They live as long as this."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self._text, self._at = _joined([_encode(reason) for reason in reasons])
        self.longest = int(np.diff(self._at).max(initial=0))
        self.native = _Reasons(self._text, self._at.ctypes.data)


class NativeAnswers:
    """By the C kernel; what it does not read (escapes, other than ASCII) is read in Python."""

    def __init__(self, kernel: NativeKernel) -> None:
        library: Any = kernel.library
        self._index_names, self._read_names = library.mica_index_names, library.mica_read_names
        self._write_filter, self._write_scores = library.mica_write_filter, library.mica_write_scores
        self._index_names.restype = None
        for function in (self._read_names, self._write_filter, self._write_scores):
            function.restype = ctypes.c_int64
        self._reasons = _Said(REASONS)
        self._naming = -1
        self._index = _NameIndex()
        self._columns: tuple[Int64, Int32] = (np.zeros(1, np.int64), np.zeros(1, np.int32))

    def read_names(self, fleet: Fleet, raw: bytes) -> NameList:
        """See Answers."""
        self.index_of(fleet)
        capacity = raw.count(b'"') // 2
        rows, starts, ends = (np.empty(capacity, np.int32) for _ in range(3))
        count = self._read_names(
            *(ctypes.byref(self._index), raw, ctypes.c_int64(len(raw)), ctypes.c_int64(capacity)),
            *(pointer(column) for column in (rows, starts, ends)),
        )
        if count < 0 or len(raw) > 2**31 - 1:
            return list_names(fleet, _names(raw))
        return NameList(raw, rows[:count], starts[:count], ends[:count], fleet.naming)

    def filter_answer(self, names: NameList, codes: Bytes, permanent: Bytes, reasons: Sequence[str] = REASONS) -> bytes:
        """See Answers."""
        said = self._reasons if reasons is REASONS else _Said(reasons)
        out = np.empty(len(names.raw) + len(names) * (said.longest + 8) + 128, np.uint8)
        written = self._write_filter(
            *(names.raw, pointer(names.starts), pointer(names.ends)),
            *(ctypes.c_int64(len(names)), pointer(codes), pointer(permanent)),
            *(ctypes.byref(said.native), pointer(out)),
        )
        return out[:written].tobytes()

    def priorities(self, names: NameList, scores: Int64) -> bytes:
        """See Answers."""
        out = np.empty(len(names.raw) + len(names) * 40 + 128, np.uint8)
        written = self._write_scores(
            *(names.raw, pointer(names.starts), pointer(names.ends)),
            *(ctypes.c_int64(len(names)), pointer(scores), pointer(out)),
        )
        return out[:written].tobytes()

    @property
    def reasons(self) -> Any:
        """REASONS as an argument for the kernel."""
        return ctypes.byref(self._reasons.native)

    def index_of(self, fleet: Fleet) -> int:
        """Address of the index of the fleet's names, made anew when they have changed; valid until they change."""
        if self._naming != fleet.naming:
            self._index_anew(fleet)
        return ctypes.addressof(self._index)

    def _index_anew(self, fleet: Fleet) -> None:
        text, at = _joined(fleet.encoded)
        slots = np.empty(1 << max(4, (2 * len(fleet.encoded)).bit_length()), np.int32)
        self._columns = (at, slots)
        self._index = _NameIndex(text, at.ctypes.data, slots.ctypes.data, len(slots) - 1, len(fleet.encoded))
        self._index_names(ctypes.byref(self._index))
        self._naming = fleet.naming


class KnownNames:
    """The lists of names that were read lately: a scheduler that sends all nodes sends the same bytes each time. Bounded."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._known: OrderedDict[bytes, NameList] = OrderedDict()

    def read(self, fleet: Fleet, raw: bytes) -> NameList:
        """The list; the same object as long as the fleet's names are the same."""
        known = self._known.get(raw)
        if known is None or known.naming != fleet.naming:
            known = self._answers.read_names(fleet, raw)
            if len(raw) > _LARGEST_KEPT:
                return known
            self._known[raw] = known
            if len(self._known) > _LISTS_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(raw)
        return known


def answers_by(kernel: Kernel) -> Answers:
    """Reader and writer that belong to a kernel."""
    return NativeAnswers(kernel) if isinstance(kernel, NativeKernel) else PythonAnswers()


def list_names(fleet: Fleet, names: Sequence[str]) -> NameList:
    """A list of names that are Python strings."""
    text, at = _joined([_encode(name) for name in names])
    return NameList(text, fleet.rows(names), at[:-1].astype(np.int32), at[1:].astype(np.int32), fleet.naming)


def _joined(parts: Sequence[bytes]) -> tuple[bytes, Int64]:
    """Texts after each other, and where each begins; the last number is the end."""
    at = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=at[1:])
    return b"".join(parts), at
