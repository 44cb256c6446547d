"""Programs beside a box: paused, continued, stopped, and what is told when one is not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mica_box.child import Child


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = Child(
        "waiter", [sys.executable, "-c", "import signal; print('here', flush=True); signal.pause()"], {}, tmp_path / "log"
    )
    yield made
    made.stop(kill=True)


def state(child: Child) -> str:
    """The kernel's letter: S sleeps, T is stopped."""
    return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_paused_child_can_still_be_stopped(child: Child) -> None:
    child.start()
    child.pause()
    assert child.stop() < 10
    assert not child.alive


def test_a_paused_child_stands_still_until_it_goes_on(child: Child) -> None:
    child.start()
    child.pause()
    while state(child) not in "tT":
        pass
    child.resume()
    while state(child) in "tT":
        pass
    assert child.alive


def test_a_child_that_ended_is_told_with_its_last_words(tmp_path: Path) -> None:
    child = Child("talker", [sys.executable, "-c", "print('mend me'); raise SystemExit(3)"], {}, tmp_path / "log")
    child.start()
    assert child.child is not None
    child.child.wait()
    with pytest.raises(RuntimeError, match=r"talker does not run:\nmend me"):
        _ = child.pid
    child.resume()
    assert child.stop() < 1


def test_one_that_was_never_started_stops_at_once(child: Child) -> None:
    assert child.stop() == 0.0
    assert child.tail() == ""
