"""A name under our own prefix that means nothing is a mistake, and a value in bytes is the commonest one."""

from __future__ import annotations

import pytest

from mica_api.dialects import match_expression, translate
from mica_api.request import InvalidRequest


@pytest.mark.parametrize("resource", ["mica.dev/vgpu-core", "mica.dev/vgpu-memory", "mica.dev/vgpu-memory-1gi", "mica.dev/gpu"])
def test_an_unknown_resource_of_ours_is_refused_and_the_known_ones_are_named(resource: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"{resource} is not supported; ask for a slice with mica.dev/vgpu-number"):
        translate("app", {resource: "1", "mica.dev/vgpu-number": "1"})


def test_the_webhook_sees_every_pod_that_names_anything_under_our_prefix() -> None:
    assert "k.startsWith('mica.dev/')" in match_expression()


@pytest.mark.parametrize(
    ("resource", "value", "words"),
    [
        ("mica.dev/vgpu-memory-1Gi", "3Gi", "counts GiB, not bytes: instead of 3Gi write 3"),
        ("nvidia.com/gpumem", "3Gi", "counts MiB, not bytes: instead of 3Gi write 3072"),
    ],
)
def test_memory_in_bytes_is_answered_with_the_number_that_was_meant(resource: str, value: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        translate("app", {resource: value})
