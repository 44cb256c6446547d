"""Where nothing names the driver: the loader's cache, then the directories of driver packages. Seen from a mount namespace,
within a user namespace, so that whoever runs the tests may make one.
"""

import shlex
import subprocess
from pathlib import Path

import pytest

PLACES = ["/usr/local/nvidia/lib64", "/usr/local/cuda/compat"]
"""Of the directories that are looked into, those that can be replaced without taking the test's own programs away."""


def without_a_path(cards, prepare: list[str], *, limited: bool = True) -> str:
    """What a program says that asks for the driver by soname where this was prepared and nothing names a path."""
    program = cards.shim.compile("paths.c", "-ldl", name="paths")
    extra = {"MICA_MEMORY": "1GiB"} if limited else {}
    env = {key: value for key, value in cards.env(limited=limited, **extra).items() if key != "LD_LIBRARY_PATH"}
    words = " && ".join(
        [*prepare, f"exec env {' '.join(shlex.quote(f'{k}={v}') for k, v in env.items())} {program} soname libcuda.so.1"]
    )
    done = subprocess.run(["unshare", "-rm", "sh", "-c", words], capture_output=True, text=True, timeout=50, check=False)
    return done.stdout.strip() or done.stderr


def cached(cards, directory: Path) -> list[str]:
    """A loader's cache that knows of a directory with the driver in it."""
    (directory / "installed").mkdir()
    (directory / "installed" / "libcuda.so.1").write_bytes(cards.shim.driver.read_bytes())
    (directory / "conf").write_text(f"{directory / 'installed'}\n")
    make = f"ldconfig -X -f {directory / 'conf'} -C {directory / 'cache'}"
    return [make, f"mount --bind {directory / 'cache'} /etc/ld.so.cache"]


def installed(cards, place: str) -> list[str]:
    """The driver alone in a place; the host keeps what it has there."""
    return ["mount -t tmpfs none /usr/local", f"mkdir -p {place}", f"cp {cards.shim.driver} {place}/libcuda.so.1"]


def test_the_loaders_cache_leads_to_the_driver(cards, tmp_path):
    assert without_a_path(cards, cached(cards, tmp_path)) == "2"


def test_without_the_limiter_the_same_cache_leads_there(cards, tmp_path):
    """So that the test above cannot pass because a program is broken."""
    assert without_a_path(cards, cached(cards, tmp_path), limited=False) == "0"


@pytest.mark.parametrize("place", PLACES)
def test_the_directories_of_driver_packages_are_looked_into(cards, place):
    assert without_a_path(cards, installed(cards, place)) == "2"


@pytest.mark.parametrize(
    "spoilt", ["", "glibc-ld.so.cache1.1", "glibc-ld.so.cache1.1" + "\xff" * 60], ids=["empty", "cut", "wild"]
)
def test_a_cache_that_cannot_be_read_is_passed_over(cards, tmp_path, spoilt):
    (tmp_path / "cache").write_bytes(spoilt.encode("latin-1"))
    prepare = [f"mount --bind {tmp_path / 'cache'} /etc/ld.so.cache", *installed(cards, PLACES[0])]
    assert without_a_path(cards, prepare) == "2"
