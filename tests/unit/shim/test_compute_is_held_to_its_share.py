"""The compute gate, against the simulator's own count of GPU time.

Bands are wide: these are functional tests, figures are the benchmark's.
"""

import json

import pytest


def busy_share(cards, before, after):
    return (after["busy_ns"] - before["busy_ns"]) / (after["now_ns"] - before["now_ns"])


@pytest.mark.parametrize("kernel_us", [200, 1000, 5000])
def test_a_container_alone_gets_its_share(cards, kernel_us):
    before = cards.truth()
    found = cards.probe("--spin", "3", "--kernel-us", str(kernel_us), env=cards.env(limited=True, MICA_CORES="20"))
    assert found["spin_error"] == 0
    assert 0.10 < busy_share(cards, before, cards.truth()) < 0.25


def test_without_a_cap_nothing_is_held_back(cards):
    found = cards.probe("--spin", "1", "--kernel-us", "1000", env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert found["busy_share"] > 0.7


def test_kernels_on_several_streams_are_charged_for_the_time_they_cover_together(cards):
    before = cards.truth()
    cards.probe("--spin", "3", "--kernel-us", "1000", "--streams", "4", env=cards.env(limited=True, MICA_CORES="30"))
    assert 0.15 < busy_share(cards, before, cards.truth()) < 0.36


def test_all_processes_of_a_container_share_one_budget(cards):
    env = cards.env(limited=True, MICA_CORES="30")
    before = cards.truth()
    spinners = [cards.start(cards.shim.probe, "--spin", "3", "--kernel-us", "1000", env=env) for _ in range(3)]
    shares = [json.loads(s.stdout.readline())["busy_share"] for s in spinners]
    assert busy_share(cards, before, cards.truth()) < 0.36
    assert sum(shares) < 0.36
    assert min(shares) > 0


def test_two_containers_on_a_card_are_each_under_their_cap_and_both_work(cards):
    one, other = (cards.env(limited=True, MICA_CORES="20", MICA_SLICE=name) for name in ("one", "other"))
    neighbour = cards.start(cards.shim.probe, "--spin", "3", "--kernel-us", "1000", env=other)
    mine = cards.probe("--spin", "3", "--kernel-us", "1000", env=one)["busy_share"]
    theirs = json.loads(neighbour.stdout.readline())["busy_share"]
    assert 0.05 < mine < 0.25
    assert 0.05 < theirs < 0.25


def test_long_kernels_are_paid_back_by_waiting(cards):
    before = cards.truth()
    cards.probe("--spin", "3", "--kernel-us", "100000", env=cards.env(limited=True, MICA_CORES="20"))
    assert busy_share(cards, before, cards.truth()) < 0.30


def test_a_new_share_takes_hold_while_the_program_runs(cards):
    cards.limits(cores=10, generation=1)
    program = cards.start(cards.shim.probe, "--spin", "4", "--kernel-us", "1000", env=cards.env(managed=True))
    cards.probe("--spin", "1", "--kernel-us", "1000", "--device", "0", env=cards.env(managed=True))
    cards.limits(cores=0, generation=2)
    found = json.loads(program.stdout.readline())
    assert found["busy_share"] > 0.3


def test_a_second_gpu_has_a_budget_of_its_own(cards):
    cards.configure(gpus=2)
    cards.limits(gpus=2, cores=20)
    env = cards.env(managed=True)
    other = cards.start(cards.shim.probe, "--device", "1", "--spin", "3", env=env)
    mine = cards.probe("--spin", "3", env=env)["busy_share"]
    assert mine > 0.1
    assert json.loads(other.stdout.readline())["busy_share"] > 0.1


def test_a_failed_launch_costs_nothing(cards):
    code = """
init(); before = time.monotonic()
for _ in range(2000):
    assert cu.cuLaunchKernel(None, 1, 1, 1, 1, 1, 1, 0, None, None, None) == 400
answer(time.monotonic() - before < 5)
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_CORES="1")) == [[True]]


def test_a_launch_without_a_context_gets_the_drivers_error(cards):
    code = "cu.cuInit(0); answer(cu.cuLaunchKernel(None, 1, 1, 1, 1, 1, 1, 0, None, None, None))"
    assert cards.python(code, env=cards.env(limited=True, MICA_CORES="1")) == [[201]]
