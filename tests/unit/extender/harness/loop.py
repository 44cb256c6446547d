"""An event loop that belongs to the test: its clock jumps to the next timer, and what runs next is drawn from a seed.

Every await of every task is a point at which any other task that could run may run first. Processes of the model are contexts: a
task started by a process belongs to it, and a frozen process does not step. For code without sockets and threads.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context, ContextVar, copy_context
from typing import Any

OWNER: ContextVar[Process | None] = ContextVar("OWNER", default=None)


class Process:
    """Something that can be killed or frozen between any two awaits of its tasks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.steps = 0
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.parked: list[asyncio.Handle] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.context = copy_context()
        self.context.run(OWNER.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something inside the process."""
        return asyncio.get_running_loop().create_task(work, context=self.context.copy())

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more, and nothing that it has in memory is left."""
        if self.dead:
            return
        self.dead = True
        self.thaw()
        for task in list(self.tasks):
            task.cancel()
        if not self.ended.done():
            self.ended.set_result(None)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT: everything that was due meanwhile runs now."""
        self.frozen = False
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.make_ready(self.parked)
        self.parked.clear()


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. Without a seed, what is ready runs in order. ``on_step`` sees every step of a process once it is made."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self, seed: int | None = None) -> None:
        self.now = 0.0
        self._random = None if seed is None else random.Random(seed)
        self.on_step: Callable[[Process], None] | None = None
        self.failures: list[str] = []
        super().__init__()
        self.set_task_factory(_owned_task)

    def time(self) -> float:
        return self.now

    def make_ready(self, handles: Iterable[asyncio.Handle]) -> None:
        """Let these run when their turn comes."""
        self._ready.extend(handles)

    def _run_once(self) -> None:
        """One pass of asyncio's loop: one callback instead of all that are ready."""
        if not self._ready:
            self._jump()
        self._collect_due()
        if not self._ready:
            return
        if self._random is not None and len(self._ready) > 1:
            self._ready.rotate(-self._random.randrange(len(self._ready)))
        handle = self._ready.popleft()
        if handle.cancelled():
            return
        context: Context = handle._context
        owner = context.get(OWNER)
        if owner is not None and owner.frozen:
            owner.parked.append(handle)
            return
        handle._run()
        if owner is not None:
            owner.steps += 1
            if self.on_step is not None:
                self.on_step(owner)

    def _jump(self) -> None:
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)._scheduled = False
        assert self._scheduled or self._stopping, "everything waits and no timer is set"
        if self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())

    def _collect_due(self) -> None:
        while self._scheduled and self._scheduled[0].when() <= self.now:
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False
            self._ready.append(handle)


def _owned_task(loop: asyncio.AbstractEventLoop, work: Any, *, context: Context | None = None, **rest: Any) -> asyncio.Task[Any]:
    owner = context.get(OWNER) if context is not None else OWNER.get()
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context, **rest)
    task.add_done_callback(_note_failure)
    if owner is not None:
        owner.tasks[task] = None
        task.add_done_callback(lambda done: owner.tasks.pop(done, None))
        if owner.dead:
            task.cancel()
    return task


def _note_failure(task: asyncio.Task[Any]) -> None:
    """Nothing in the model and nothing in production may end with an error that nobody expects."""
    loop = task.get_loop()
    error = None if task.cancelled() else task.exception()
    if error is not None and isinstance(loop, VirtualLoop):
        loop.failures.append(f"{task.get_coro()!r} failed: {error!r}")


def play(story: Callable[[], Coroutine[Any, Any, Any]], *, seed: int | None = None) -> Any:
    """Result of a story in virtual time."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner:
        return runner.run(story())
