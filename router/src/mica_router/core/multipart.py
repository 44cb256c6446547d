"""The model named in a form upload (audio). Reads that one field; the form itself is forwarded as it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mica_router.core.request import Request

_FIELD: Final = re.compile(
    rb'\r\nContent-Disposition: *form-data; *name="model"(?:\r\n[^\r\n]+)*\r\n\r\n([^\r\n]*)\r\n', re.IGNORECASE
)


def model_of_form(request: Request) -> str | None:
    """None when the body is no form; empty when the form names no model."""
    if not request.lookup.get(b"content-type", b"").lower().startswith(b"multipart/form-data"):
        return None
    found = _FIELD.search(request.body)
    return found[1].decode("utf-8", "replace") if found else ""
