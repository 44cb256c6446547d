"""SIGKILL at every numbered point of the ledger: never is less charged than held, and the books are right once reaped."""

import json
import re
import struct
from pathlib import Path

import pytest

GIB = 1 << 30
SOURCES = Path(__file__).parents[3] / "vgpu_shim" / "src"
POINTS = sorted(int(n) for path in SOURCES.glob("*.c") for n in re.findall(r"MICA_CRASH_POINT\((\d+)\)", path.read_text()))


def crashes(cards, mortal, point, runs, seed):
    cards.limits(memory=GIB)
    program = cards.shim.compile("crashes.c", f"-L{cards.shim.root / 'sim'}", "-l:libcuda.so.1")
    env = cards.env(managed=True)
    env["LD_PRELOAD"] = env["LD_PRELOAD"].replace(str(cards.shim.library), str(mortal))
    done = cards.run(program, cards.region(), str(point), str(runs), str(seed), env=env)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return json.loads(done.stdout)


def test_the_points_are_numbered_without_gaps():
    assert list(range(1, len(POINTS) + 1)) == POINTS
    assert len(POINTS) >= 15


@pytest.mark.parametrize("point", POINTS)
def test_death_at_each_point_leaves_books_that_can_be_put_right(cards, mortal, point):
    found = crashes(cards, mortal, point, runs=4, seed=1)
    assert found["broken"] == 0
    assert found["died"] > 0  # or the point was never reached, and nothing is shown


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", POINTS)
def test_a_hundred_deaths_at_each_point(cards, mortal, point):
    died = 0
    for seed in range(2, 7):
        died += crashes(cards, mortal, point, runs=20, seed=seed)["died"]
    print(f"point {point}: {died} deaths in 100 runs, no book was wrong (95% upper bound of the rate: {3 / died:.3f})")
    assert died >= 10


def test_the_product_has_no_such_points(cards):
    assert b"MICA_CRASH_AT" not in cards.shim.library.read_bytes()


def test_a_slot_is_taken_again_by_the_next_process_after_a_crash_in_the_middle(cards, mortal):
    """The dead process's slot is not lost: its number is used again."""
    crashes(cards, mortal, 2, runs=30, seed=99)
    region = cards.region().read_bytes()
    taken = [s for s in range(1024) if struct.unpack_from("<I", region, 20480 + 1024 * s)[0]]
    assert max(taken, default=0) < 12
