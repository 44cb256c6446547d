"""Text of a file that somebody made: whole, as UTF-8, or refused with the place of what is not."""

from __future__ import annotations

from pathlib import Path

from mica_extender.simulator.model import BadInput


def read_text(path: Path, *, help_: str = "") -> str:
    """The file's text. Raises BadInput; ``help_`` says what to do about a file that cannot be opened."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}{help_}") from error
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, character = before.count(b"\n") + 1, len(before[before.rfind(b"\n") + 1 :].decode()) + 1
        raise BadInput(f"{path}, line {line}, character {character}: it is not UTF-8 text") from error
