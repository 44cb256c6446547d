"""The region reader against rubbish, against a region as the limiter writes it, and against what a container does to the file."""

import os
import struct
from contextlib import chdir

import pytest
from containers import lease, reserve, slot_lock, without_privileges
from hypothesis import given
from hypothesis import strategies as st

from mica_device_plugin.region import MAGIC, SIZE, SLOTS_OFFSET, GPUUsage, InvalidRegion, cut, is_live, parse_region, read_region


@pytest.fixture
def region_file(tmp_path):
    """A region in a directory that everybody may search, as on a node. Relative: what is above it is the test run's own."""
    path = tmp_path / "usage" / "region"
    path.parent.mkdir(mode=0o755)
    path.write_bytes(bytes(SIZE))
    with chdir(tmp_path):
        tmp_path.chmod(0o755)
        yield path.relative_to(tmp_path)


def region(*, count: int = 1, cores: int = 20, uuid: bytes = b"GPU-1", version: int = 2) -> bytearray:
    data = bytearray(SLOTS_OFFSET)
    struct.pack_into("<8sIIIIIIQQ", data, 0, MAGIC, version, 16, 1024, 1024, 1024, count, SIZE, 7)
    struct.pack_into("<48sQI4xQQQQ", data, 4096, uuid, 3 << 30, cores, (5 << 48) | (1 << 30), 2, 8, 9)
    struct.pack_into("<QQQ", data, 4096 + 192, 10, 11, 12)
    return data


def test_a_good_region_is_read_with_the_change_tag_masked():
    usage = GPUUsage("GPU-1", 3 << 30, 20, 1 << 30, 2, 8, 9, 10, 11, 12)
    assert parse_region(bytes(region())) == (usage,)


def test_an_untouched_region_has_no_usage():
    assert parse_region(bytes(SLOTS_OFFSET)) == ()


@pytest.mark.parametrize(
    "data",
    [
        region(count=17),
        region(version=1),
        region(cores=101),
        region(uuid=b"\xff\xfe"),
        region(uuid=b""),
        b"short",
        b"X" * SLOTS_OFFSET,
    ],
)
def test_what_makes_no_sense_is_refused(data):
    with pytest.raises(InvalidRegion):
        parse_region(bytes(data))


@given(st.binary(max_size=600), st.integers(0, 600) | st.integers(4000, 6200))
def test_no_content_does_more_than_be_refused(noise, offset):
    data = region(count=2)
    data[offset : offset + len(noise)] = noise
    try:
        usages = parse_region(bytes(data[:SLOTS_OFFSET].ljust(SLOTS_OFFSET, b"\0")))
    except InvalidRegion:
        return
    assert all(u.uuid.isprintable() and u.used < 2**48 and u.cores <= 100 for u in usages)


def test_only_a_plain_file_of_the_right_size_is_opened(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(SIZE))
    link, small, directory, pipe = (tmp_path / name for name in ("link", "small", "directory", "pipe"))
    link.symlink_to(secret)
    small.write_bytes(b"x")
    directory.mkdir()
    os.mkfifo(pipe)
    for path in (link, small, directory, pipe, tmp_path / "absent"):
        with pytest.raises(InvalidRegion):
            read_region(path)
        assert not is_live(path)
        assert cut(path) == 0
    assert secret.stat().st_size == SIZE
    assert read_region(secret) == () and not is_live(secret)


@pytest.mark.parametrize("size", [SIZE + 1, SIZE - 1, 0])
def test_a_container_does_not_look_dead_because_it_changed_the_size_of_its_region(tmp_path, size):
    path = tmp_path / "region"
    path.write_bytes(bytes(SIZE))
    with slot_lock(path):
        os.truncate(path, size)
        assert is_live(path)
        with pytest.raises(InvalidRegion):
            read_region(path)
    assert not is_live(path)


def test_a_container_does_not_look_dead_because_it_has_a_lease_on_its_region(region_file):
    with slot_lock(region_file) as held, lease(held):
        with pytest.raises(InvalidRegion):
            read_region(region_file)
        assert is_live(region_file)
    assert not is_live(region_file)


def test_a_container_that_took_the_region_from_the_agent_lives_as_long_as_its_lock(region_file):
    with slot_lock(region_file):
        region_file.chmod(0)
        with without_privileges():
            assert is_live(region_file)
    with without_privileges():
        assert not is_live(region_file)


def test_a_region_in_a_directory_that_cannot_be_searched_does_not_look_dead(region_file):
    region_file.parent.chmod(0)
    with without_privileges():
        assert is_live(region_file)
    region_file.parent.chmod(0o755)


def test_what_is_beyond_the_region_is_cut_and_what_is_in_it_stays(tmp_path):
    path = tmp_path / "region"
    path.write_bytes(b"y" * SIZE + b"x" * 5000)
    assert cut(path) >= 5000
    assert cut(path) == 0
    assert path.read_bytes() == b"y" * SIZE


def test_a_link_to_something_longer_is_not_cut(tmp_path):
    other, path = tmp_path / "other", tmp_path / "region"
    other.write_bytes(bytes(SIZE + 1))
    path.symlink_to(other)
    assert cut(path) == 0
    assert other.stat().st_size == SIZE + 1


@pytest.mark.parametrize("size", [SIZE, 100])
def test_space_reserved_behind_the_end_is_seen_and_cut_though_the_length_is_right(region_file, size):
    os.truncate(region_file, size)
    reserve(region_file, offset=SIZE, length=10 << 20)
    assert region_file.stat().st_size == size
    with pytest.raises(InvalidRegion):
        read_region(region_file)
    assert cut(region_file) > 8 << 20
    assert cut(region_file) == 0
    assert (region_file.stat().st_size, region_file.stat().st_blocks * 512 <= SIZE) == (size, True)


def test_a_few_blocks_more_may_be_the_file_systems_own(region_file):
    """ext4 counts the list of a file's extents, and nobody can cut that."""
    reserve(region_file, offset=SIZE, length=16 << 10)
    assert region_file.stat().st_blocks * 512 > SIZE
    assert read_region(region_file) == ()
    assert cut(region_file) == 0


def test_a_region_under_a_lease_is_not_said_to_be_cut(region_file):
    os.truncate(region_file, SIZE + 1)
    with region_file.open("r+b") as held, lease(held.fileno()), pytest.raises(BlockingIOError):
        cut(region_file)
    assert cut(region_file) == 1


def test_a_region_that_the_agent_may_not_write_is_not_said_to_be_cut(region_file):
    os.truncate(region_file, SIZE + 1)
    region_file.chmod(0o444)
    with without_privileges(), pytest.raises(PermissionError):
        cut(region_file)
