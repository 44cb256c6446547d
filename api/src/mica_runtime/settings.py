"""Settings from the environment, one frozen class per component.

A variable with our prefix that no field takes is an error: a misspelt setting must not be silently ignored.
"""

from __future__ import annotations

import os
from typing import Final, Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableSettings

PREFIX: Final = "MICA_"


class SettingsError(ValueError):
    """A setting is missing, unknown or invalid; the message names the variable."""


class Settings(BaseSettings):
    """Base class. Fields are read from ``MICA_<FIELD>``; collections are JSON."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    log_level: str = "info"

    @classmethod
    def from_environment(cls) -> Self:
        """Read the settings. Raises SettingsError that names every wrong variable."""
        known = {f"{PREFIX}{name}".upper() for name in cls.model_fields}
        unknown = sorted(key for key in os.environ if key.startswith(PREFIX) and key not in known)
        if unknown:
            raise SettingsError(f"unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        try:
            return cls()
        except ValidationError as error:
            details = "; ".join(
                f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" if e["loc"] else e["msg"] for e in error.errors()
            )
            raise SettingsError(details) from error
        except UnreadableSettings as error:
            raise SettingsError(f"{error}: {error.__cause__}; collections are written as JSON") from error
