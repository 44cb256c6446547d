"""The loop that cuts regions: one that cannot be cut is no other's trouble, and each is told of once."""

import os
from pathlib import Path

import pytest
from agent_under_test import make_settings
from containers import lease, slot_lock
from structlog.testing import capture_logs

from mica_device_plugin.cdi import Edits
from mica_device_plugin.files import HostFiles
from mica_device_plugin.limits import Limits
from mica_device_plugin.loops import RegionWatch
from mica_device_plugin.region import SIZE
from mica_device_plugin.slices import Cut, SliceStore
from mica_device_plugin.values import SliceKey, SliceOwner

FIRST, SECOND = SliceKey("0" * 32), SliceKey("1" * 32)
OWNER = SliceOwner("uid-1", "c0")


class UnlistableFiles(HostFiles):
    """Directories cannot be listed while ``broken``."""

    broken = False

    def names(self, path: Path) -> list[str]:
        if self.broken:
            raise PermissionError(13, "Permission denied", str(path))
        return super().names(path)


@pytest.fixture
def layout(tmp_path):
    return make_settings(tmp_path).layout()


@pytest.fixture
def files():
    return UnlistableFiles()


@pytest.fixture
def store(layout, files):
    """A store with two slices, both of containers that made their regions one byte longer."""
    store = SliceStore(layout, files)
    for key in (FIRST, SECOND):
        start(store, key)
        os.truncate(layout.region_file(key), SIZE + 1)
    return store


def start(store: SliceStore, key: SliceKey, owner: SliceOwner = OWNER) -> None:
    store.prepare(key)
    store.write_slice(key, Limits(owner, ()), Edits())


async def said(watch: RegionWatch) -> list[tuple[str, bool]]:
    """Which slices one look says something of, and whether it was that they cannot be cut."""
    with capture_logs() as entries:
        await watch.cut()
    return sorted((entry.get("key", "all"), "error" in entry) for entry in entries)


def test_a_region_that_cannot_be_cut_is_told_of_and_the_others_are_cut(store, layout):
    with layout.region_file(FIRST).open("r+b") as held, lease(held.fileno()):
        cuts = store.cut_regions()
    assert "temporarily unavailable" in cuts[FIRST].problem and cuts[FIRST].owner == OWNER
    assert cuts[SECOND] == Cut(surplus=1, owner=OWNER)
    assert layout.region_file(SECOND).stat().st_size == SIZE


async def test_what_cannot_be_cut_is_said_once_and_so_is_that_it_then_was(store, layout):
    watch = RegionWatch(store)
    with layout.region_file(FIRST).open("r+b") as held, lease(held.fileno()):
        assert await said(watch) == [(FIRST, True), (SECOND, False)]
        assert await said(watch) == []
    assert await said(watch) == [(FIRST, False)]
    os.truncate(layout.region_file(FIRST), SIZE + 1)
    assert await said(watch) == []
    assert layout.region_file(FIRST).stat().st_size == SIZE


async def test_the_next_container_on_the_same_slots_is_told_of_too(store, layout):
    watch = RegionWatch(store)
    await said(watch)
    store.remove_slice(FIRST)
    await said(watch)
    start(store, FIRST)
    start(store, SECOND, SliceOwner("uid-2", "c0"))
    for key in (FIRST, SECOND):
        os.truncate(layout.region_file(key), SIZE + 1)
    assert await said(watch) == [(FIRST, False), (SECOND, False)]


async def test_slices_that_cannot_be_listed_are_said_once_until_they_can(store, files):
    watch = RegionWatch(store)
    files.broken = True
    assert [await said(watch), await said(watch)] == [[("all", True)], []]
    files.broken = False
    assert await said(watch) == [(FIRST, False), (SECOND, False)]
    files.broken = True
    assert await said(watch) == [("all", True)]


def test_a_region_in_use_is_not_replaced_because_it_was_made_empty(store, layout):
    with slot_lock(layout.region_file(FIRST)):
        os.truncate(layout.region_file(FIRST), 0)
        store.prepare(FIRST)
        assert store.is_live(FIRST)
