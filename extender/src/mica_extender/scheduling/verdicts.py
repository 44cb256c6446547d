"""Verdicts and scores of many nodes, remembered per pod shape for as long as a node has not changed.

150 waiting pods of one kind ask again at every event; nearly all of their answers are the ones of a moment ago. Per shape there
is one array of codes and one of scores over the fleet's rows, each with the version of the node that it holds for, so that a
request computes only what has changed since. What no kernel decides goes node by node through ``fit.py``, with pauses, under the
request's budget.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from typing import Final

import numpy as np

from mica_extender.effort import Effort
from mica_extender.placement import Placement, Rejection, Shape, score
from mica_extender.placement.fleet import Bytes, Fleet, Int32, Int64
from mica_extender.placement.fragmentation import card_key
from mica_extender.placement.kernels import CODES, FITS, UNDECIDED, CompiledShape, Kernel, NativeKernel, Verdicts
from mica_extender.placement.mix import Tables
from mica_extender.placement.onepass import Known, OnePass, Sorted
from mica_extender.placement.scoring import UNSCORED, CompiledTables, native_scores, numpy_scores
from mica_extender.state.ledger import Ledger

MAX_SHAPES: Final = 128
"""Shapes that are remembered: 26 bytes for each node and shape."""
_NUMBERS: Final = {code: number for number, code in enumerate(CODES) if code is not None}
_UNREGISTERED: Final = 1
_LOOK_S: Final = 0.2
_RENEWED_AT_ONCE: Final = 256
"""Nodes whose scores are made anew in one turn of the loop: a quarter of a millisecond, for which a request may have to wait."""
_RENEW_PAUSE_S: Final = 0.001


class _Known:
    """What is known of one shape, by row of the fleet. A version of 0 holds for no node."""

    def __init__(self, shape: Shape, fleet: Fleet) -> None:
        self.compiled = CompiledShape(shape, fleet)
        self.tables: CompiledTables | None = None
        self.codes: Bytes = np.zeros(0, np.uint8)
        self.permanent: Bytes = np.zeros(0, np.uint8)
        self.decided_at: Int64 = np.zeros(0, np.int64)
        self.scores: Int64 = np.zeros(0, np.int64)
        self.scored_at: Int64 = np.zeros(0, np.int64)
        self.native = Known()

    def grow(self, rows: int) -> None:
        """Have room for this many rows."""
        if len(self.codes) < rows:
            size = rows + rows // 8
            for column in ("codes", "permanent", "decided_at", "scores", "scored_at"):
                old = getattr(self, column)
                new = np.zeros(size, old.dtype)
                new[: len(old)] = old
                setattr(self, column, new)
                setattr(self.native, column, new.ctypes.data)


class Judge:
    """Verdicts and scores from the ledger's present state.

    New tables of the mix make all scores stale. While ``renew`` runs, a shape keeps its tables until all its scores are made anew
    beside the requests; otherwise the next request has to do that. ``one_pass`` answers what needs no waiting.
    """

    def __init__(self, ledger: Ledger, kernel: Kernel, one_pass: OnePass | None = None) -> None:
        self._one_pass = one_pass
        self._renewing = False
        self._ledger = ledger
        self._fleet = ledger.fleet
        self._kernel = kernel
        self._shapes: OrderedDict[Shape, _Known] = OrderedDict()

    def sorted(self, shape: Shape, names: bytes) -> Sorted | None:
        """The answer of filter for these names, if it can be had at once."""
        if self._one_pass is None:
            return None
        known = self._known(shape)
        return self._one_pass.filter(self._fleet, known.compiled, known.native, names)

    def priorities(self, shape: Shape, names: bytes) -> bytes | None:
        """The answer of prioritize for these names, if it can be had at once."""
        if self._one_pass is None:
            return None
        known = self._known(shape)
        return self._one_pass.prioritize(self._fleet, known.compiled, self._tables(known), known.native, names)

    async def verdicts(self, shape: Shape, rows: Int32, effort: Effort) -> tuple[Verdicts, bool]:
        """Codes of the nodes in these rows (-1: not known), and whether all are final.

        One that only the request's budget has cut short is not kept: the next request goes on where this one ended.
        """
        known = self._known(shape)
        present = rows[rows >= 0]
        unfinished: dict[int, tuple[int, bool]] = {}
        stale = present[self._fleet.version[present] != known.decided_at[present]]
        for part in self._parts(stale):
            await effort.share(len(part) / self._kernel.at_once)
            await self._decide(known, part, effort, unfinished)
        codes = np.where(rows >= 0, known.codes[rows], np.uint8(_UNREGISTERED))
        permanent = np.where(rows >= 0, known.permanent[rows], np.uint8(1))
        for row, (code, never) in unfinished.items():
            codes[rows == row], permanent[rows == row] = code, never
        return Verdicts(codes, permanent), not unfinished

    async def scores(self, shape: Shape, rows: Int32, effort: Effort) -> Int64:
        """Scores of the nodes in these rows; 0 where the pod does not fit."""
        found, _ = await self.verdicts(shape, rows, effort)
        known = self._known(shape)
        self._tables(known)
        fitting = rows[found.codes == FITS]
        stale = fitting[self._fleet.version[fitting] != known.scored_at[fitting]]
        for part in self._parts(stale):
            await effort.share(len(part) / self._kernel.at_once)
            # Scores are of nodes on which the pod fits, and a pause may have put another node in the place of one.
            same = (self._fleet.version[part] == known.decided_at[part]) & (known.codes[part] == FITS)
            await self._score(known, part[same], effort)
        return np.where(found.codes == FITS, known.scores[rows], np.int64(0))

    async def renew(self) -> None:
        """Make scores anew beside the requests whenever there are new tables, until cancelled."""
        self._renewing = True
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                await self.renew_outdated()
        finally:
            self._renewing = False

    async def renew_outdated(self) -> None:
        """Make the scores anew that other tables than the present ones gave."""
        for known in [known for known in self._shapes.values() if self._outdated(known)]:
            await self._renew(known)

    async def _renew(self, known: _Known) -> None:
        """All scores of a shape that the kernel knows, in one go for its readers. What changes meanwhile is stale as always."""
        tables, fleet, size = self._ledger.learned.compiled(), self._fleet, len(known.scores)
        scores, scored_at = np.zeros(size, np.int64), np.zeros(size, np.int64)
        rows = np.arange(min(size, fleet.node_rows), dtype=np.int32)
        for at in range(0, len(rows), _RENEWED_AT_ONCE):
            part = rows[at : at + _RENEWED_AT_ONCE]
            part = part[(known.codes[part] == FITS) & (fleet.version[part] == known.decided_at[part])]
            made = self._kernel_scores(known, tables, part)
            decided = part[made != UNSCORED]
            scores[decided], scored_at[decided] = made[made != UNSCORED], fleet.version[decided]
            await asyncio.sleep(_RENEW_PAUSE_S)
        # Where there is no new score the old one stays for who has begun to read, and is stale for everybody else.
        renewed = np.flatnonzero(scored_at)
        known.scores[renewed] = scores[renewed]
        known.scored_at[:size], known.scored_at[size:] = scored_at, 0
        known.tables = tables

    def _tables(self, known: _Known) -> CompiledTables:
        """The tables that a shape's scores are made from now."""
        if known.tables is None or (self._outdated(known) and not self._renewing):
            known.tables = self._ledger.learned.compiled()
            known.scored_at[:] = 0
        known.tables = known.tables.refresh(self._fleet)
        return known.tables

    def _outdated(self, known: _Known) -> bool:
        return known.tables is not None and known.tables.tables is not self._ledger.learned.tables

    async def _decide(self, known: _Known, rows: Int32, effort: Effort, unfinished: dict[int, tuple[int, bool]]) -> None:
        at = self._fleet.version[rows]
        found = self._kernel.evaluate(self._fleet, known.compiled, rows)
        decided = found.codes != UNDECIDED
        # What is undecided keeps its old verdict until it has a new one: another request may read it in the pauses below.
        known.codes[rows[decided]], known.permanent[rows[decided]] = found.codes[decided], found.permanent[decided]
        known.decided_at[rows[decided]] = at[decided]
        for row in rows[~decided].tolist():
            await effort.pause()
            self._decide_one(known, row, effort, unfinished)

    def _decide_one(self, known: _Known, row: int, effort: Effort, unfinished: dict[int, tuple[int, bool]]) -> None:
        if not self._fleet.names[row]:
            known.codes[row], known.permanent[row] = _UNREGISTERED, 1
            return
        found, final = effort.search(known.compiled.shape, self._ledger.state(row))
        verdict = found.verdict
        code, never = (_NUMBERS[verdict.code], verdict.permanent) if isinstance(verdict, Rejection) else (FITS, False)
        known.codes[row], known.permanent[row] = code, never
        if final:
            known.decided_at[row] = self._fleet.version[row]
        else:
            unfinished[row] = (code, never)

    async def _score(self, known: _Known, rows: Int32, effort: Effort) -> None:
        assert known.tables is not None
        scored = self._kernel_scores(known, known.tables, rows)
        decided = scored != UNSCORED
        known.scores[rows[decided]] = scored[decided]
        known.scored_at[rows[decided]] = self._fleet.version[rows[decided]]
        for row in rows[~decided].tolist():
            await effort.pause()
            self._score_one(known, known.tables.tables, row, effort)

    def _kernel_scores(self, known: _Known, tables: CompiledTables, rows: Int32) -> Int64:
        if isinstance(self._kernel, NativeKernel):
            return native_scores(self._kernel.library, self._fleet, known.compiled, tables, rows)
        return numpy_scores(self._fleet, known.compiled, tables, rows)

    def _score_one(self, known: _Known, tables: Tables, row: int, effort: Effort) -> None:
        known.scores[row] = 0
        if not self._fleet.names[row]:
            return
        state = self._ledger.state(row)
        found, final = effort.search(known.compiled.shape, state, cost=partial(card_key, tables=tables))
        if isinstance(found.verdict, Placement):
            known.scores[row] = score(known.compiled.shape, state, found.verdict, tables)
        if final:
            known.scored_at[row] = self._fleet.version[row]

    def _known(self, shape: Shape) -> _Known:
        known = self._shapes.get(shape)
        if known is None:
            known = self._shapes[shape] = _Known(shape, self._fleet)
            if len(self._shapes) > MAX_SHAPES:
                self._shapes.popitem(last=False)
        self._shapes.move_to_end(shape)
        known.grow(max(self._fleet.node_rows, 1))
        return known

    def _parts(self, rows: Int32) -> list[Int32]:
        size = self._kernel.at_once
        return [rows[at : at + size] for at in range(0, len(rows), size)]
