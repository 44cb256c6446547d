"""Which functions the node's driver exports and the limiter does not have. Pure.

A linked program that needs such a name does not start in a slice, and one that looks it up is told that it does not
exist: a driver newer than the limiter must not go unnoticed. Not a general ELF reader: names in the dynamic symbol table of a
64-bit little-endian library, and nothing of a file that is not one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_ELF64_LITTLE: Final = b"\x7fELF\x02\x01"
_DYNAMIC_SYMBOLS: Final = 11
_UNDEFINED: Final = 0
_DRIVER_NAME: Final = re.compile(rb"cu[A-Z]\w{1,200}")


def exported_names(library: bytes) -> frozenset[str]:
    """Driver functions (``cu`` and a capital) that a shared library exports; empty when the bytes are no such library."""
    try:
        return frozenset(_names(library))
    except (struct.error, OverflowError):
        return frozenset()


def lacking(*, driver: bytes, limiter: bytes) -> tuple[str, ...]:
    """Names that the driver exports and the limiter does not, sorted."""
    return tuple(sorted(exported_names(driver) - exported_names(limiter)))


def _names(library: bytes) -> Iterator[str]:
    if not library.startswith(_ELF64_LITTLE):
        return
    header = _HEADER.unpack_from(library)
    table, size, count = header[6], header[11], header[12]
    sections = [_SECTION.unpack_from(library, table + number * size) for number in range(count)]
    for _, kind, _, _, offset, length, link, _, _, entry in sections:
        if kind != _DYNAMIC_SYMBOLS or entry != _SYMBOL.size or link >= count:
            continue
        strings = sections[link][4]
        for at in range(offset, offset + length, entry):
            name, _, _, section, _, _ = _SYMBOL.unpack_from(library, at)
            found = _DRIVER_NAME.match(library, strings + name) if section != _UNDEFINED else None
            if found:
                yield found.group().decode()
