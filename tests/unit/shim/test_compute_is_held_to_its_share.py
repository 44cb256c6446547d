"""The compute gate, against the simulator's own count of GPU time.

Bands are wide: these are functional tests, figures are the benchmark's.
"""

import json
from pathlib import Path

import pytest

SHIM = Path(__file__).parents[3] / "vgpu_shim"


def busy_share(cards, before, after):
    return (after["busy_ns"] - before["busy_ns"]) / (after["now_ns"] - before["now_ns"])


@pytest.mark.parametrize("kernel_us", [200, 1000, 5000])
def test_a_container_alone_gets_its_share(cards, kernel_us):
    found = cards.probe("--spin", "3", "--kernel-us", str(kernel_us), env=cards.member(limited=True, MICA_CORES="20"))
    assert found["spin_error"] == 0
    assert 0.10 < cards.truth()["busy_ns"] / 3e9 < 0.25


def test_without_a_cap_nothing_is_held_back(cards):
    found = cards.probe("--spin", "1", "--kernel-us", "1000", env=cards.member(limited=True, MICA_MEMORY="1GiB"))
    assert found["busy_share"] > 0.7


def test_kernels_on_several_streams_are_charged_for_the_time_they_cover_together(cards):
    cards.probe("--spin", "3", "--kernel-us", "1000", "--streams", "4", env=cards.member(limited=True, MICA_CORES="30"))
    assert 0.15 < cards.truth()["busy_ns"] / 3e9 < 0.36


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
    found = cards.probe("--spin", "3", "--kernel-us", "100000", env=cards.member(limited=True, MICA_CORES="20"))
    assert found["spin_error"] == 0
    assert 0.10 < cards.truth()["busy_ns"] / 3e9 < 0.30


SPIN = """
def function():
    module, found = ctypes.c_void_p(), ctypes.c_void_p()
    assert cu.cuModuleLoadData(ref(module), b"x") == cu.cuModuleGetFunction(ref(found), module, b"spin") == 0
    return found
def spin(function, ns, grid=1):
    value = u64(ns); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
    return cu.cuLaunchKernel(function, grid, 1, 1, 32, 1, 1, 0, None, params, None)
def share(function, ns, seconds):
    start = time.monotonic(); launches = 0
    while time.monotonic() - start < seconds:
        assert spin(function, ns) == 0
        launches += 1
        if launches % 8 == 0: cu.cuCtxSynchronize()
    cu.cuCtxSynchronize()
    return launches * ns / 1e9 / (time.monotonic() - start)
def context(device=0):
    made = ctypes.c_void_p()
    assert cu.cuCtxCreate_v2(ref(made), 0, device) == cu.cuCtxPopCurrent_v2(None) == cu.cuCtxSetCurrent(made) == 0
    return made
"""


def test_a_debt_of_more_than_two_seconds_is_paid_in_full(cards):
    code = """
init(); f = function(); start = time.monotonic()
assert spin(f, 3_000_000_000) == cu.cuCtxSynchronize() == spin(f, 1000, grid=2) == 0
answer(time.monotonic() - start)
"""
    ((took,),) = cards.python(SPIN + code, env=cards.member(limited=True, MICA_CORES="50"))
    assert 5.5 < took < 8


@pytest.mark.parametrize(
    "way", ["cuLaunchKernel", "cuLaunchKernel_ptsz", "cuLaunchCooperativeKernel", "cuLaunchCooperativeKernel_ptsz"]
)
def test_whoever_launches_in_another_way_pays_as_well(cards, way):
    code = f"""
init(); f = function(); start = time.monotonic()
value = u64(1_000_000_000); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
extra = () if "Cooperative" in {way!r} else (None,)
assert cu.{way}(f, 1, 1, 1, 32, 1, 1, 0, None, params, *extra) == cu.cuCtxSynchronize() == spin(f, 1000, grid=2) == 0
answer(time.monotonic() - start)
"""
    ((took,),) = cards.python(SPIN + code, env=cards.env(limited=True, MICA_CORES="50"))
    assert took > 1.8
    ((free,),) = cards.python(SPIN + code, env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert free < took


def test_a_batch_of_shapes_that_nobody_knows_does_not_pass_at_once(cards):
    code = """
init(); f = function(); start = time.monotonic()
for shape in range(16):
    assert spin(f, 50_000_000, grid=2 + shape) == 0
answer(time.monotonic() - start)
"""
    ((took,),) = cards.python(SPIN + code, env=cards.member(limited=True, MICA_CORES="20"))
    assert 2.5 < took < 6


def test_contexts_without_number_share_the_budget_of_their_gpu(cards):
    code = """
init()
for _ in range(150):
    context(); last = function(); assert spin(last, 1000) == 0
answer(share(last, 1_000_000, 2))
"""
    ((share,),) = cards.python(SPIN + code, env=cards.env(limited=True, MICA_CORES="10"))
    assert 0 < share < 0.15


def test_contexts_that_are_destroyed_make_room_for_others_to_be_measured(cards):
    code = """
init()
for _ in range(300):
    made = context(); assert spin(function(), 1000) == 0 and cu.cuCtxDestroy_v2(made) == 0
context(); answer(share(function(), 1_000_000, 2))
"""
    ((share,),) = cards.python(SPIN + code, env=cards.member(limited=True, MICA_CORES="20"))
    assert 0.10 < share < 0.25


def test_a_gpu_that_is_not_in_the_limits_runs_nothing_in_any_context(cards):
    cards.configure(gpus=2)
    cards.limits(cores=10, gpus=1)
    code = """
init()
for _ in range(150):
    context(1); assert spin(function(), 1000) == 800
answer("refused")
"""
    assert cards.python(SPIN + code, env=cards.env(managed=True)) == [["refused"]]


def test_time_is_credited_once_debt_is_kept_and_overlap_charged_once(cards):
    """Made-up clocks and events; see programs/budget.c."""
    gen = cards.shim.root / "gen"
    flags = ["-D_GNU_SOURCE", "-fno-sanitize=undefined", f"-I{gen}", f"-I{SHIM / 'src'}", f"-I{SHIM / 'hooks'}"]
    program = cards.shim.compile("budget.c", *flags)
    seen = cards.run(program, env=cards.env()).stdout.split("\n")
    assert seen[0] == "6000"  # us for 12 ms at half a card, whatever the order of readings
    assert seen[1] == "-49995"  # ms: a real debt less what 10 ms bring
    assert seen[2] == "-1995"  # ms: more debt than was ever used is scribble
    assert seen[3:5] == ["901", "3"]
    assert seen[5:7] == ["7", "7994"]  # a long launch holds up its own stream only
    assert seen[7] == "0 0 0 0"  # no event call outside the relaxed capture mode, mode restored, nothing left over


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
