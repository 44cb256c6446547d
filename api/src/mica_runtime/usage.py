"""What a component says about itself on the command line: it takes no arguments, and its settings come from the environment."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from pydantic.fields import FieldInfo

from mica_runtime.settings import PREFIX, Settings

_HELP: Final = frozenset({"-h", "--help"})


class Say(Protocol):
    """Prints one text."""

    def __call__(self, text: str) -> None:
        """To where it belongs."""


def answer_arguments(arguments: Sequence[str], settings: type[Settings], *, out: Say, err: Say) -> int | None:
    """The exit status that these arguments ask for, after what has to be said; None: there are none, and the component starts."""
    if not arguments:
        return None
    if _HELP & set(arguments):
        out(usage(settings))
        return 0
    err(
        f"unknown arguments: {' '.join(arguments)}. Settings are read from the environment; {program(settings)} --help lists them"
    )
    return 2


def program(settings: type[Settings]) -> str:
    """How the component is started."""
    return f"python -m {settings.__module__.partition('.')[0]}"


def usage(settings: type[Settings]) -> str:
    """Every variable with its default, and what the class says of them."""
    lines = [f"{PREFIX}{name.upper()}{_default(field)}" for name, field in settings.model_fields.items()]
    about = inspect.cleandoc(settings.__doc__ or "")
    return "\n".join(
        [f"usage: {program(settings)}", "", "Settings, from the environment:", "", *(f"  {x}" for x in lines), "", about]
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "  (required)"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "  (not set)"
    if isinstance(value, str | Path):
        return f"={value}"
    return f"={json.dumps(value, default=list)}"


def say_out(text: str) -> None:
    """To standard output."""
    sys.stdout.write(f"{text}\n")


def say_err(text: str) -> None:
    """To standard error."""
    sys.stderr.write(f"{text}\n")
