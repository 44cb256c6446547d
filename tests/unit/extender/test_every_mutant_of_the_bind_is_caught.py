"""Bugs that others had, written into a copy of the sources as patches (tests/mutants): the harness or a named test sees each.

A mutant that random interleavings do not catch within LIMIT stories has a directed test, and so has one that took them more than
a third of it: which story catches it changes with the sources and with the version of Python. A patch that no longer applies has
to be made again: the same mistake in today's words.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .harness.runs import environment, told

ROOT = Path(__file__).parents[3]
MUTANTS = ROOT / "tests" / "mutants"
LIMIT = 1000
HERE = "tests/unit/extender"
SINGLE = f"{HERE}/test_a_leader_begins_when_nothing_of_the_last_can_land.py"
CHARGES = f"{HERE}/test_a_pod_is_charged_its_busiest_moment.py"
ANSWERS = f"{HERE}/test_binds_survive_lost_answers_and_races.py"
COUNTS = f"{HERE}/test_the_ledger_counts_every_slice_once.py"
STORIES = f"{HERE}/test_no_interleaving_gives_a_card_twice.py"

DIRECTED = {
    "adopt-own-decision": f"{ANSWERS}::test_what_is_stored_is_adopted_and_not_what_was_sent",
    "dead-by-the-answers-time": f"{SINGLE}::test_only_a_read_that_began_after_the_write_died_proves_that_it_never_landed",
    "delete-by-name": f"{SINGLE}::test_an_eviction_names_the_uid_so_that_a_namesake_is_spared",
    "init-containers-summed": f"{CHARGES}::test_an_init_container_needs_no_room_beside_the_app_that_it_precedes",
    "sidecars-before-their-time": f"{CHARGES}::test_a_sidecar_runs_beside_the_app_and_beside_what_starts_after_it",
    "no-leader-check": f"{SINGLE}::test_nobody_but_a_leader_binds_and_the_binder_looks_for_itself",
    "no-list-at-takeover": f"{SINGLE}::test_a_new_leader_waits_until_the_writes_of_the_last_are_dead_and_then_lists",
    "no-outwait-at-takeover": f"{SINGLE}::test_a_new_leader_waits_until_the_writes_of_the_last_are_dead_and_then_lists",
    "no-resource-version": f"{SINGLE}::test_a_binding_names_the_pod_it_was_decided_for_and_when_the_server_must_give_up",
    "no-takeover-fence": f"{SINGLE}::test_a_new_leader_decides_nothing_before_its_list_has_come",
    "old-event-overwrites-bind": f"{COUNTS}::test_an_event_of_before_the_bind_leaves_the_reservation",
    "renewals-by-their-time": f"{STORIES}::test_what_the_clocks_of_machines_show_changes_nothing[9]",
    "retry-does-not-join": f"{ANSWERS}::test_calls_for_one_pod_join_one_write",
    "server-does-not-give-up": f"{SINGLE}::test_a_binding_names_the_pod_it_was_decided_for_and_when_the_server_must_give_up",
    "second-try-without-a-look": f"{ANSWERS}::test_a_second_try_chooses_its_cards_anew",
}
"""Mutants that took more than LIMIT stories, or nearly, or that stories cannot reach, and the test that sees them at once."""
ELSEWHERE = {"ignorable-true"}
"""Of the chart: see tests/chart."""
NAMES = sorted(path.stem for path in MUTANTS.glob("*.patch") if path.stem not in ELSEWHERE)


def mutated(name: str, folder: Path) -> list[Path]:
    """Sources with the mutant in them."""
    sources = [ROOT / part / "src" for part in ("api", "extender")]
    for source in sources:
        shutil.copytree(source, folder / source.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        ["git", "apply", str(MUTANTS / f"{name}.patch")], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"refresh the mutant {name}: write the same mistake into today's code\n{done.stderr}"
    return [folder / source.relative_to(ROOT) for source in sources]


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in DIRECTED])
def test_interleavings_catch(name: str, tmp_path: Path) -> None:
    found = told(0, LIMIT, processes=1, sources=mutated(name, tmp_path), until_caught=True)
    print(f"{name}: caught in story {found.totals['runs']}: {next(iter(found.problems.values()), [''])[0]}")
    assert found.problems, f"{name} was not caught in {LIMIT} stories: give it a directed test"


@pytest.mark.exhaustive
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", sorted(DIRECTED))
def test_a_directed_test_catches(name: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", DIRECTED[name]]
    done = subprocess.run(words, cwd=ROOT, env=environment(mutated(name, tmp_path)), capture_output=True, text=True, check=False)
    assert done.returncode == 1, f"{DIRECTED[name]} does not see {name}:\n{done.stdout[-2000:]}"
    assert "1 failed" in done.stdout


@pytest.mark.parametrize("name", [*NAMES, *sorted(ELSEWHERE)])
def test_a_mutant_is_the_same_mistake_in_todays_words(name: str) -> None:
    """Quick, so that whoever changes the sources learns it at once and not from the exhaustive run."""
    words = ["git", "apply", "--check", str(MUTANTS / f"{name}.patch")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"refresh the mutant {name}\n{done.stderr}"
