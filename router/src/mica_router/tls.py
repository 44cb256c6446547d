"""TLS towards clients: certificate and key from files, looked at again when they change."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from mica_runtime.logging import get_logger

_POLL_SECONDS = 5.0
_log = get_logger(__name__)


async def _wait() -> None:
    await asyncio.sleep(_POLL_SECONDS)


class ServerTls:
    """A context whose certificate follows its files; connections that exist keep theirs. Raises OSError or ssl.SSLError."""

    def __init__(self, certificate: Path, key: Path, *, wait: Callable[[], Awaitable[None]] = _wait) -> None:
        self._files = (certificate, key)
        self._wait = wait
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._used = self._read()
        self.context.load_cert_chain(certificate, key)

    def _read(self) -> tuple[bytes, ...]:
        return tuple(file.read_bytes() for file in self._files)

    async def follow(self) -> None:
        """Until cancelled: load what has changed. A pair that does not fit (yet) is not used."""
        while True:
            await self._wait()
            try:
                found = self._read()
                if found != self._used:
                    self._check()
                    self.context.load_cert_chain(*self._files)
                    self._used = found
                    _log.info("certificate loaded", path=str(self._files[0]))
            except (OSError, ssl.SSLError) as error:
                _log.error("a changed certificate is not used, the old one stays", error=str(error))

    def _check(self) -> None:
        """Try the pair on a context of its own: a failed load would leave ours with half of it."""
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)
