"""What deciding between tiers needs to know of a request, read from its body only as far as it is asked for. Pure.

The prompt's length is an estimate: a token of English or code is about four bytes of UTF-8, and JSON around the text adds little.
It is used to compare predicted times, and by rules on `prompt_tokens`; nothing is accounted with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from mica_router.core.rules import HEADER_PREFIX

BYTES_PER_TOKEN: Final = 4
_OUTPUT_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_GENERATING: Final = ("/completions", "/responses", "/messages")
_DECODER: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY: Final = msgspec.json.Decoder()


class RequestFacts:
    """One request. The body is split into its top-level fields at the first question and values are decoded one by one."""

    __slots__ = ("_body", "_fields", "_headers", "_values", "path")

    def __init__(self, *, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.path = path
        self._body = body
        self._headers = headers
        self._fields: Mapping[str, msgspec.Raw] | None = None
        self._values: dict[str, Any] = {}

    @property
    def prompt_tokens(self) -> int:
        """Estimated length of the prompt."""
        return -(-len(self._body) // BYTES_PER_TOKEN)

    @property
    def generates(self) -> bool:
        """Whether the answer is generated token by token; embeddings, scores and the like are not."""
        return self.path.endswith(_GENERATING)

    @property
    def max_tokens(self) -> int | None:
        """Most tokens that the answer may have, None when the client sets no limit. 0 where nothing is generated."""
        if not self.generates:
            return 0
        found = self.field("max_tokens")
        return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None

    def field(self, name: str) -> Any:
        """JSON value of a field as rules name it, None when absent."""
        if name == "prompt_tokens":
            return self.prompt_tokens
        if name == "path":
            return self.path
        if name.startswith(HEADER_PREFIX):
            return self._header(name.removeprefix(HEADER_PREFIX))
        if name == "max_tokens":
            return next((value for key in _OUTPUT_LIMITS if (value := self._value(key)) is not None), None)
        return self._value(name)

    def _value(self, name: str) -> Any:
        if name not in self._values:
            raw = self._split().get(name)
            self._values[name] = self._inside(name) if raw is None else _decode(raw)
        return self._values[name]

    def _inside(self, name: str) -> Any:
        """`a.b` is the field `b` of the object `a`, unless a field is called so itself."""
        outer, dot, inner = name.partition(".")
        found = self._value(outer) if dot else None
        for part in inner.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def _split(self) -> Mapping[str, msgspec.Raw]:
        if self._fields is None:
            try:
                self._fields = _DECODER.decode(self._body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._fields = {}
        return self._fields

    def _header(self, name: str) -> str | None:
        wanted = name.encode("latin-1", "replace")
        found = [value for key, value in self._headers if key.lower() == wanted]
        return b", ".join(found).decode("latin-1") if found else None


def _decode(raw: msgspec.Raw) -> Any:
    try:
        return _ANY.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
