"""What is known of a request when an engine is chosen for it. A value; read once from head and body by `core.dispatch`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from mica_router.core.headers import Header
from mica_router.core.plans import Plan
from mica_router.core.routes import Route


class Features(NamedTuple):
    """One request on its way to an engine.

    `target` and `body` are what an engine gets (`body` names the model as engines know it). `streams`: it asks for a stream.
    `max_tokens`: the most tokens it asks for (`max_completion_tokens` or `max_tokens`), None if it does not say. `lookup`: the
    first header of each name.
    """

    route: Route
    method: bytes
    path: str
    target: bytes
    headers: list[Header]
    body: bytes
    streams: bool = False
    max_tokens: int | None = None
    lookup: Mapping[bytes, bytes] | None = None
    plan: Plan | None = None

    def without_body(self) -> Features:
        """The same for those who have no use for the body any more."""
        route, method, path, target, headers, _, streams, max_tokens, lookup, plan = self
        return tuple.__new__(Features, (route, method, path, target, headers, b"", streams, max_tokens, lookup, plan))

    def header(self, name: bytes) -> bytes | None:
        """The first header of this name (lower case), if there is one."""
        if self.lookup is not None:
            return self.lookup.get(name)
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None

    def fields(self) -> dict[str, Any]:
        """The JSON body, decoded anew at every call; empty when it is no object. For rules only: it costs a full parse."""
        try:
            content = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}
