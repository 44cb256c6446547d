"""API keys of a service as the router gets them: hashes of the values of a Secret. The keys go no further than this."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from mica_operator.core.views import Body, KeyHashes

MIN_BYTES: Final = 20
"""A shorter key could be found from its hash, which everybody who may read the object can read."""
_MOST: Final = 1000


def hash_keys(name: str, secret: Body | None) -> KeyHashes:
    """Hashes of all values. One value that is no key is a problem of the whole Secret: a part of it must not pass for all."""
    if secret is None:
        return KeyHashes(problem=f"there is no Secret {name} in this namespace")
    data = secret.get("data") or {}
    if not data:
        return KeyHashes(problem=f"the Secret {name} has no data; each of its values is one API key")
    if len(data) > _MOST:
        return KeyHashes(problem=f"the Secret {name} has more than {_MOST} values")
    hashes: set[str] = set()
    for entry, encoded in sorted(data.items()):
        key = _decoded(encoded)
        if len(key) < MIN_BYTES:
            what = f"the value {entry} of the Secret {name} is shorter than {MIN_BYTES} bytes"
            return KeyHashes(problem=f"{what}: use random keys, as of openssl rand -hex 24")
        hashes.add(hashlib.sha256(key).hexdigest())
    return KeyHashes(hashes=tuple(sorted(hashes)))


def _decoded(encoded: str) -> bytes:
    """White space at the ends is what editors leave behind."""
    try:
        return base64.b64decode(encoded, validate=True).strip()
    except (binascii.Error, ValueError):
        return b""
