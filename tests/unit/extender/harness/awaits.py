"""Which await of the production bind code a task is suspended at.

The awaits are read from the source, so that a new one is a new row of the table and a table without hits for it fails.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import CodeType, ModuleType
from typing import Any

from mica_extender import evictor
from mica_extender.scheduling import app, binder
from mica_extender.state import leadership

MODULES: tuple[ModuleType, ...] = (app, binder, leadership, evictor)
ONLY = {app: {"_answer", "_bind"}}
"""Of the application's functions those that bind passes through; the other verbs write nothing."""
FILTERS = "Binder.room"
"""Where filter waits while binds are under way; nothing has been decided there."""


@dataclass(frozen=True)
class Await:
    """One await expression: where it is, what it waits for, and its lines."""

    module: str
    function: str
    waits_for: str
    first: int
    last: int
    number: int = 0

    @property
    def label(self) -> str:
        return f"{self.module}.{self.function}: {self.waits_for}" + (f" #{self.number}" if self.number else "")


class _Collector(ast.NodeVisitor):
    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.path: list[str] = []
        self.found: list[Await] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._inside(node)

    def _inside(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.path.append(node.name)
        self.generic_visit(node)
        self.path.pop()

    def visit_Await(self, node: ast.Await) -> None:
        wanted = ONLY.get(self.module)
        if (wanted is None or self.path[-1] in wanted) and ".".join(self.path) != FILTERS:
            call = node.value
            what = ast.unparse(call.func if isinstance(call, ast.Call) else call)
            name = self.module.__name__.rpartition(".")[2]
            self.found.append(Await(name, ".".join(self.path), what, node.lineno, node.end_lineno or node.lineno))
        self.generic_visit(node)


def _own_coroutines() -> set[str]:
    """Async functions of the modules themselves: awaiting one is suspended further in, at one of its own awaits."""
    trees = [ast.parse(inspect.getsource(module)) for module in MODULES]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)}


def _collect() -> tuple[Await, ...]:
    own = _own_coroutines()
    found: list[Await] = []
    for module in MODULES:
        collector = _Collector(module)
        collector.visit(ast.parse(inspect.getsource(module)))
        found += collector.found
    return tuple(_numbered([a for a in found if not _passes_on(a, own)]))


def _numbered(points: list[Await]) -> Iterator[Await]:
    """Equal labels get numbers."""
    for point in points:
        twins = [one for one in points if one.label == point.label]
        yield point if len(twins) == 1 else replace(point, number=twins.index(point) + 1)


def _passes_on(point: Await, own: set[str]) -> bool:
    target, _, name = point.waits_for.rpartition(".")
    return point.waits_for == "act" or (name in own and target in ("self", "self._binder"))


AWAITS: tuple[Await, ...] = _collect()
_FILES = {inspect.getsourcefile(module): module.__name__.rpartition(".")[2] for module in MODULES}
_KNOWN: dict[tuple[CodeType, int], str | None] = {}


def _row(code: CodeType, line: int) -> str | None:
    if (code, line) not in _KNOWN:
        module = _FILES.get(code.co_filename)
        found = [a.label for a in AWAITS if a.module == module and a.first <= line <= a.last]
        _KNOWN[code, line] = found[0] if found else None
    return _KNOWN[code, line]


def suspended_at(task: asyncio.Task[Any]) -> tuple[str | None, Any]:
    """Label of the production await at which a suspended task waits, and that function's frame."""
    coroutine: Any = task.get_coro()
    label, frame = None, None
    while coroutine is not None:
        inner = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if inner is not None:
            row = _row(inner.f_code, inner.f_lineno)
            if row is not None:
                label, frame = row, inner
        coroutine = getattr(coroutine, "cr_await", None)
    return label, frame
