"""docs/router.md names every operator, reason, policy and field, so that nothing is enforced that users cannot read about."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from mica_api.models.inference_service import AutoscalingSpec
from mica_api.models.routing import CPUWhen, RoutingSpec
from mica_router.core.routing import Policy
from mica_router.core.rules import OPERATORS
from mica_router.core.tiers_decide import Reason

PAGE = (Path(__file__).parents[3] / "docs" / "router.md").read_text()
FIELDS = [field.alias or name for model in (RoutingSpec, CPUWhen, AutoscalingSpec) for name, field in model.model_fields.items()]


@pytest.mark.parametrize("word", [*OPERATORS, *(reason.value for reason in Reason), *get_args(Policy)])
def test_the_page_names_it(word: str) -> None:
    assert f"`{word}`" in PAGE


@pytest.mark.parametrize("field", FIELDS)
def test_the_page_names_the_field(field: str) -> None:
    assert field in PAGE
