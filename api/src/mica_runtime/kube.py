"""Thin asynchronous client of the API server: JSON in, bytes or dicts out.

Configuration, credentials and their refresh come from the official ``kubernetes`` package; its typed models are left out because
decoding them costs ten times the JSON. Retries are the caller's: a level-triggered loop or a bind knows what is safe to repeat.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import Configuration

from mica_runtime.short_requests import NoAnswer, ShortRequests

_TIMEOUT_S: Final = 10.0
_CONNECTIONS: Final = 32
_LINE_LIMIT: Final = 8 * 2**20

_USER_AGENT: Final = "mica"

JSON_BODY: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"


class KubeError(Exception):
    """Base of everything that can go wrong with a request.

    KubeError
    ├── Unreachable   no answer: refused, reset, timed out (the request may or may not have been carried out), no credentials
    └── ApiError      the API server answered with an error status
    """


class Unreachable(KubeError):
    """No answer arrived; for a write the outcome is unknown."""


class ApiError(KubeError):
    """The API server refused: ``status`` is the HTTP code, ``reason`` the machine word of the Status object."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @classmethod
    def from_body(cls, status: int, body: bytes) -> ApiError:
        """Read a Status object; anything else becomes the message."""
        try:
            parsed = json.loads(body)
            return cls(status, str(parsed.get("reason", "")), str(parsed.get("message", "")))
        except (ValueError, AttributeError):
            return cls(status, "", body[:500].decode(errors="replace"))


class KubeClient:
    """Session to one API server. Create inside a running loop; close after use (async context manager)."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._host: str = configuration.host.rstrip("/")
        context = _ssl_context(configuration)
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=context)
        self._short = ShortRequests(self._host, context)
        self._session = aiohttp.ClientSession(connector=connector, read_bufsize=_LINE_LIMIT, auto_decompress=True)

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None) -> Self:
        """Client from a kubeconfig file, or from the pod's service account when none is given."""
        configuration = Configuration()
        if kubeconfig is not None:
            await kube_config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        else:
            kube_config.load_incluster_config(client_configuration=configuration)
        return cls(configuration)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        self._short.close()
        await self._session.close()

    async def open_session(self) -> tuple[str, aiohttp.ClientSession]:
        """Server and a session of its own for a library that talks to the API server itself; the caller closes it.

        Its credentials are today's: open another one when they are refused.
        """
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=_ssl_context(self._configuration))
        return self._host, aiohttp.ClientSession(connector=connector, headers=await self._auth_headers())

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON_BODY,
        deadline: float = _TIMEOUT_S,
    ) -> bytes:
        """Body of a successful answer. Raises ApiError for an error status, Unreachable when there is no answer."""
        headers = {**await self._auth_headers(), "Accept": "application/json", "Content-Type": content_type}
        data = None if body is None else json.dumps(body).encode()
        try:
            async with self._session.request(
                method,
                self._host + path,
                params=params,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=deadline),
            ) as response:
                payload = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{method} {path}: {error!r}") from error
        if response.status >= 400:
            raise ApiError.from_body(response.status, payload)
        return payload

    async def get(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """GET as a dict."""
        return _object(await self.request("GET", path, **kwargs))

    async def post(
        self, path: str, body: Mapping[str, Any], *, params: Mapping[str, str] | None = None, deadline: float = _TIMEOUT_S
    ) -> dict[str, Any]:
        """POST as a dict. Raises like ``request``."""
        headers = {**await self._auth_headers(), "Accept": JSON_BODY, "Content-Type": JSON_BODY, "User-Agent": _USER_AGENT}
        target = f"{path}?{urlencode(params)}" if params else path
        try:
            status, payload = await self._short.request(
                "POST", target, headers=headers, body=msgspec.json.encode(body), deadline=deadline
            )
        except (TimeoutError, NoAnswer, OSError) as error:
            raise Unreachable(f"POST {path}: {error!r}") from error
        if status >= 400:
            raise ApiError.from_body(status, payload)
        return _object(payload)

    async def delete(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """DELETE as a dict."""
        return _object(await self.request("DELETE", path, **kwargs))

    async def merge_patch(self, path: str, body: Mapping[str, Any], *, field_manager: str | None = None) -> dict[str, Any]:
        """JSON merge patch; the API server names the writer after its user agent unless ``field_manager`` does."""
        params = None if field_manager is None else {"fieldManager": field_manager}
        return _object(await self.request("PATCH", path, params=params, body=body, content_type=MERGE_PATCH))

    async def apply(self, path: str, body: Mapping[str, Any], *, field_manager: str) -> dict[str, Any]:
        """Server-side apply; conflicts are forced, because each of our fields has one owner."""
        params = {"fieldManager": field_manager, "force": "true"}
        return _object(await self.request("PATCH", path, params=params, body=body, content_type=APPLY_PATCH))

    async def stream_lines(self, path: str, *, params: Mapping[str, str], silence: float) -> AsyncIterator[bytes]:
        """Lines of a watch. Ends when the server ends it; raises Unreachable after ``silence`` seconds without a byte."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT_S, sock_read=silence)
        headers = {**await self._auth_headers(), "Accept": "application/json"}
        try:
            async with self._session.get(self._host + path, params=params, headers=headers, timeout=timeout) as response:
                if response.status >= 400:
                    raise ApiError.from_body(response.status, await response.read())
                async for line in response.content:
                    yield line
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"watch {path}: {error!r}") from error

    async def _auth_headers(self) -> dict[str, str]:
        try:
            token = await self._configuration.get_api_key_with_prefix("BearerToken")
        except Exception as error:
            # Whatever reads them (a file, a program): callers know what to do without an answer.
            raise Unreachable(f"credentials cannot be read: {error!r}") from error
        return {"Authorization": token} if token else {}


def _object(payload: bytes) -> dict[str, Any]:
    try:
        parsed = msgspec.json.decode(payload)
    except msgspec.DecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ApiError(502, "", f"expected an object, got {type(parsed).__name__}")
    return parsed


def _ssl_context(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
