"""Changes that a service or the router itself makes to a client's JSON body before an engine gets it. Pure.

* Fields that drive sysHAX's patched engines are taken out, whoever sends them.
* A request that names no model gets the name of the default one.
* What the service's `defaults` say is filled in where a request for a chat or a completion does not say it.

Fields are put in behind the opening brace; every other byte stays. Taking fields out writes the object anew, values as they came.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mica_router.core.routing import RequestDefaults
from mica_router.core.target import PRIVATE

_FILLED: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
_OBJECT_DECODER: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Asked(msgspec.Struct, gc=False):
    """Which of the fields that may be filled in are there, whatever their values."""

    max_tokens: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_completion_tokens: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    temperature: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_ASKED_DECODER: Final = msgspec.json.Decoder(_Asked)


def without_private_fields(body: bytes) -> bytes:
    """The same object without the fields of `PRIVATE`. `body` is a JSON object."""
    fields = _OBJECT_DECODER.decode(body)
    return msgspec.json.encode({name: value for name, value in fields.items() if name not in PRIVATE})


def with_model(body: bytes, *, model: str) -> bytes:
    """An object that has no `model`, with one."""
    return _put(body, b'"model":' + msgspec.json.encode(model))


def with_defaults(body: bytes, path: str, defaults: RequestDefaults) -> tuple[bytes, int | None]:
    """The body as the engine gets it, and the `max_tokens` that were filled in (None: they were not). `body` is a JSON object."""
    if path not in _FILLED:
        return body, None
    asked = _ASKED_DECODER.decode(body)
    limit, temperature = defaults.max_tokens, defaults.temperature
    if asked.max_tokens is not msgspec.UNSET or asked.max_completion_tokens is not msgspec.UNSET:
        limit = None
    if limit is not None:
        body = _put(body, b'"max_tokens":%d' % limit)
    if temperature is not None and asked.temperature is msgspec.UNSET:
        body = _put(body, b'"temperature":' + msgspec.json.encode(temperature))
    return body, limit


def _put(body: bytes, member: bytes) -> bytes:
    start = body.index(b"{") + 1
    empty = body[start:].lstrip()[:1] == b"}"
    return b"".join((body[:start], member, b"" if empty else b",", body[start:]))
