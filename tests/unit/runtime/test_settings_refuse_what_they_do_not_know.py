from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import Field

from mica_runtime.settings import Settings, SettingsError


class Example(Settings):
    port: int = 1
    folder: Path = Path("/x")
    images: dict[str, str] = Field(default_factory=dict)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing of the surroundings. The environment is this class's input, so setting it is not patching code."""
    for key in [key for key in os.environ if key.startswith("MICA_")]:
        monkeypatch.delenv(key)
    return monkeypatch


def test_values_come_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MICA_PORT", "8080")
    environment.setenv("MICA_IMAGES", '{"a": "b"}')
    settings = Example.from_environment()
    assert (settings.port, settings.folder, settings.images, settings.log_level) == (8080, Path("/x"), {"a": "b"}, "info")


def test_a_misspelt_variable_is_named_with_the_known_ones(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MICA_PROT", "8080")
    with pytest.raises(SettingsError, match=r"unknown settings MICA_PROT; known are .*MICA_PORT"):
        Example.from_environment()


@pytest.mark.parametrize(("name", "value"), [("MICA_PORT", "many"), ("MICA_IMAGES", '["a"]')])
def test_a_bad_value_is_named(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        Example.from_environment()


def test_a_collection_that_is_no_json_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MICA_IMAGES", "{")
    with pytest.raises(SettingsError, match=r"images.*written as JSON"):
        Example.from_environment()


def test_variables_of_others_are_not_ours(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SOMETHING_ELSE", "1")
    assert Example.from_environment().port == 1
