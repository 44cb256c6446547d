"""API keys: known by their sha256 digests only, compared in constant time, never logged and never passed on to engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from mica_router.core.headers import Header

if TYPE_CHECKING:
    from mica_router.core.request import Request

KEY_HEADERS: Final = frozenset({b"authorization", b"x-api-key"})


def key_of(lookup: Mapping[bytes, bytes]) -> bytes | None:
    """The bearer token, or the `x-api-key` that clients of Anthropic's API send."""
    given = lookup.get(b"authorization")
    if given is None:
        return lookup.get(b"x-api-key")
    scheme, _, token = given.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None


def may_use(digests: Sequence[bytes], request: Request) -> bool:
    """Whether the request carries one of the keys. Looks at every digest, whichever fits."""
    key = key_of(request.lookup)
    if key is None:
        return False
    digest = sha256(key).digest()
    fits = False
    for known in digests:
        fits |= compare_digest(known, digest)
    return fits


def without_keys(headers: Sequence[Header]) -> list[Header]:
    """What an engine gets when the router has checked the key."""
    return [header for header in headers if header[0].lower() not in KEY_HEADERS]
