"""Life of a process: start, run its parts together, end within two seconds of SIGTERM.

A part is a coroutine that runs until cancelled. When one of them ends or fails, the process ends: a half-running component would
look alive and do nothing. Not a supervisor: Kubernetes restarts processes.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import uvloop

from mica_runtime import __version__, logging
from mica_runtime.settings import Settings, SettingsError
from mica_runtime.usage import answer_arguments, say_err, say_out

_GRACE_S: Final = 1.5
_log = logging.get_logger(__name__)


class PartEnded(RuntimeError):
    """A part of the process returned although it should run for ever."""


async def run_parts(*parts: Coroutine[Any, Any, None], grace: float = _GRACE_S) -> None:
    """Run until SIGTERM or SIGINT, or until a part ends. Raises what a failing part raised, PartEnded if one returned.

    ``grace``: seconds that parts have to end once they are cancelled.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, number, stop)
    stopped = asyncio.create_task(stop.wait())
    tasks = [asyncio.create_task(part) for part in parts]
    done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in (stopped, *tasks):
        task.cancel()
    await asyncio.wait([stopped, *tasks], timeout=grace)
    for task in done - {stopped}:
        task.result()
        raise PartEnded(f"{task.get_coro()!r} returned")


def _stop(number: signal.Signals, stop: asyncio.Event) -> None:
    if not stop.is_set():
        _log.info("stopping", signal=number.name)
    stop.set()


def main(component: str, start: Callable[[], Awaitable[None]], *, settings: type[Settings] | None = None) -> None:
    """Entry point of a component: exit code 0 after a signal, 2 for bad settings, 1 for anything else.

    ``settings`` are what ``--help`` lists; other arguments are refused. None: the component reads its arguments itself.
    """
    if settings is not None:
        status = answer_arguments(sys.argv[1:], settings, out=say_out, err=say_err)
        if status is not None:
            sys.exit(status)
    logging.configure(component=component, level="info")
    log = logging.get_logger(component)
    log.info("component started", version=__version__)
    try:
        uvloop.run(_as_coroutine(start))
    except (SettingsError, logging.UnknownLevel) as error:
        log.error("bad settings", error=str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(0)
    except Exception:
        log.exception("component failed")
        sys.exit(1)


async def _as_coroutine(start: Callable[[], Awaitable[None]]) -> None:
    await start()
