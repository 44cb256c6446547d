"""Routes from a file that is watched for changes. A bad file at start ends the process; a bad change is logged and not used."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from mica_router.core.routes import build_table
from mica_router.ports import Publish, RouteSourceError
from mica_router.sources.routes_file import parse_routes_file
from mica_runtime.logging import get_logger

_POLL_SECONDS = 1.0
_log = get_logger(__name__)


async def _wait_for_next_look() -> None:
    await asyncio.sleep(_POLL_SECONDS)


class FileRouteSource:
    """`RouteSource` over one file.

    The content is compared, not the time stamp: a ConfigMap changes by a swapped link, an editor by rename. `wait` decides when
    the file is looked at again.
    """

    def __init__(self, path: Path, *, wait: Callable[[], Awaitable[None]] = _wait_for_next_look) -> None:
        self._path = path
        self._wait = wait
        self._used = ""
        self._refused = ""

    async def run(self, publish: Publish) -> None:
        """Publish the file now and whenever it changes. Raises RouteSourceError if it is bad at the start."""
        self._load(self._read(), publish)
        while True:
            await self._wait()
            try:
                text = self._read()
                if text not in (self._used, self._refused):
                    self._load(text, publish)
            except RouteSourceError as error:
                _log.error("changed routes are not used, the old ones stay", path=str(self._path), error=str(error))

    def _read(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RouteSourceError(f"cannot read the routes file {self._path}: {error}") from error

    def _load(self, text: str, publish: Publish) -> None:
        self._refused = text
        try:
            created = int(self._path.stat().st_mtime)
            services = parse_routes_file(text, created=created)
        except OSError as error:
            raise RouteSourceError(f"cannot read the routes file {self._path}: {error}") from error
        except RouteSourceError as error:
            raise RouteSourceError(f"routes file {self._path}: {error}") from error
        self._used, self._refused = text, ""
        publish(build_table(services))
        _log.info("routes loaded", path=str(self._path), models=len(services))
