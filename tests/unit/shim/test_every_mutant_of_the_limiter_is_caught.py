"""Bugs that limiters had, put back into a copy of this one as patches (tests/mutants/shim): a named test sees each.

A patch that no longer applies has to be made again: the same mistake in today's words. Only what a patch touches is compiled.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MUTANTS = ROOT / "tests" / "mutants" / "shim"
HERE = "tests/unit/shim"
CRASHES = f"{HERE}/test_a_process_may_die_at_any_point.py::test_death_at_each_point_leaves_books_that_can_be_put_right"
MEMORY = f"{HERE}/test_memory_stays_under_its_cap.py"
LOOKUP = f"{HERE}/test_every_lookup_path_is_limited.py"
LIMITS = f"{HERE}/test_limits_come_from_one_place.py"
COMPUTE = f"{HERE}/test_compute_is_held_to_its_share.py"
NEXT = f"{LOOKUP}::test_the_next_symbol_is_the_one_after_the_caller_and_other_libraries_keep_their_names"
PAST = f"{HERE}/test_what_others_let_through_is_limited.py"

BATCHES = f"{HERE}/test_a_batch_ends_where_and_when_it_should.py"

SEEN_BY = {
    "a-context-switch-goes-unnoticed": f"{HERE}/test_a_launch_counts_where_it_runs.py",
    "a-forked-child-keeps-the-slot": f"{MEMORY}::test_a_forked_child_neither_keeps_nor_frees_what_its_parent_holds",
    "a-lock-is-held-while-the-driver-loads-code": (
        f"{HERE}/test_every_family_is_charged_what_it_really_takes.py"
        "::test_an_instrument_that_loads_code_while_the_driver_does_neither_hangs_nor_goes_uncharged"
    ),
    "an-event-of-ours-is-a-barrier": f"{BATCHES}::test_blocking_streams_overlap_as_they_do_without_the_limiter",
    "another-error-than-out-of-memory": f"{MEMORY}::test_every_family_gets_exactly_its_cap_and_then_out_of_memory",
    "check-without-reserving": f"{MEMORY}::test_threads_and_processes_that_race_get_the_cap_to_the_byte",
    "debt-is-forgiven": f"{COMPUTE}::test_a_debt_of_more_than_two_seconds_is_paid_in_full",
    "destroyed-contexts-keep-their-memory": f"{MEMORY}::test_what_a_destroyed_context_held_is_given_back",
    "dlsym-by-name-alone": NEXT,
    "environment-wins-over-the-file": f"{LIMITS}::test_the_environment_counts_for_nothing_where_there_is_a_file",
    "events-in-a-destroyed-stream": f"{HERE}/test_a_destroyed_stream_is_left_alone.py",
    "every-gpu-gets-the-first-limit": f"{LIMITS}::test_the_file_gives_each_gpu_its_own_limit_by_uuid",
    "free-memory-underflows": f"{PAST}::test_free_memory_is_never_more_than_the_slice",
    "freed-when-the-handle-goes": f"{MEMORY}::test_memory_that_is_mapped_stays_charged_after_its_handle_is_released",
    "graphs-are-not-gated": f"{PAST}::test_graphs_are_held_to_the_share",
    "host-memory-is-charged": f"{MEMORY}::test_host_memory_is_not_charged",
    "limits-are-read-once": f"{LIMITS}::test_a_running_program_follows_its_limits_up_and_down_within_a_second",
    "next-symbol-loses-its-caller": NEXT,
    "open-without-a-file": f"{LIMITS}::test_no_file_is_no_gpu",
    "per-thread-launch-becomes-legacy": f"{PAST}::test_a_per_thread_launch_reaches_the_per_thread_function",
    "region-of-any-size": f"{LIMITS}::test_a_region_of_the_wrong_size_is_no_gpu",
    "size-is-what-was-asked-for": f"{MEMORY}::test_what_the_driver_rounds_up_counts",
    "sum-overflows": f"{PAST}::test_a_sum_that_overflows_is_refused",
    "the-dead-keep-their-memory": f"{MEMORY}::test_memory_of_a_killed_process_is_available_within_a_second",
    "the-helper-stays-in-a-dying-context": f"{BATCHES}::test_a_context_is_not_ended_before_the_helper_is_out_of_it",
    "total-is-lowered-first": CRASHES,
    "unknown-frees-are-swallowed": f"{MEMORY}::test_frees_of_unknown_pointers_reach_the_driver",
    "what-others-left-is-debt": (
        f"{HERE}/test_a_card_is_lent_in_turns.py"
        "::test_what_a_conserving_container_was_left_is_no_debt_to_a_newcomer_or_without_the_arbiter"
    ),
}
"""Mutant → the test that sees it."""
NAMES = sorted(path.stem for path in MUTANTS.glob("*.patch"))


def mutated(name, folder, shim):
    """A tree with the mutant's sources and what is built already."""
    shutil.copytree(ROOT / "vgpu_shim", folder / "vgpu_shim")
    shutil.copytree(shim.root, folder / "build" / "shim", ignore=shutil.ignore_patterns("zig"))
    command = ["git", "apply", str(MUTANTS / f"{name}.patch")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"refresh the mutant {name}: write the same mistake into today's code\n{done.stderr}"
    return folder


def test_every_patch_has_its_test_and_there_are_a_dozen():
    assert set(SEEN_BY) == set(NAMES)
    assert len(NAMES) >= 12


@pytest.mark.parametrize("name", NAMES)
def test_every_patch_applies(name):
    done = subprocess.run(
        ["git", "apply", "--check", str(MUTANTS / f"{name}.patch")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"refresh the mutant {name}: write the same mistake into today's code\n{done.stderr}"


@pytest.mark.exhaustive
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", NAMES)
def test_the_named_test_sees(name, tmp_path, shim):
    tree = mutated(name, tmp_path / "tree", shim)
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not exhaustive"]
    done = subprocess.run(
        [*words, SEEN_BY[name]],
        cwd=ROOT,
        env=os.environ | {"MICA_SHIM_TREE": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, f"{SEEN_BY[name]} does not see {name}:\n{done.stdout[-2000:]}"
    assert "1 failed" in done.stdout, done.stdout[-2000:]
    assert "make: ***" not in done.stdout, f"{name} does not compile:\n{done.stdout[-3000:]}"
