"""What other limiters let through or get wrong: graphs, per-thread streams, sums that overflow, free memory below zero."""

import json

import pytest

GIB = 1 << 30
MIB = 1 << 20


def test_graphs_are_held_to_the_share(cards):
    cards.configure(launch_ns="0", call_ns="0")
    limits = {"MICA_MEMORY": "4GiB", "MICA_CORES": "30"}
    spin = ("--spin", "6", "--kernel-us", "1000", "--graph", "10")
    program = cards.start(cards.shim.probe, *spin, env=cards.member(0, join=2, limited=True, **limits))
    reader = cards.start(cards.shim.sim_state, "5000", "1", env=cards.member(1, join=2))
    card = json.loads(reader.stdout.readline())["gpus"][0]
    assert program.wait(timeout=50) == 0
    (truth,) = [process for process in card["processes"] if process["pid"] == program.pid]
    assert 0.25 < truth["busy_ns"] / 5e9 < 0.35


def test_a_per_thread_launch_reaches_the_per_thread_function(cards):
    cards.configure(trace="1")
    code = """
init(); module, function = ctypes.c_void_p(), ctypes.c_void_p()
cu.cuModuleLoadData(ref(module), b"any"); cu.cuModuleGetFunction(ref(function), module, b"spin")
value = u64(1000); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
answer(cu.cuLaunchKernel_ptsz(function, 1, 1, 1, 32, 1, 1, 0, None, params, None), cu.cuCtxSynchronize())
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB", MICA_CORES="50")) == [[0, 0]]
    called = [line.split()[2] for line in (cards.directory / "trace").read_text().splitlines()]
    assert "cuLaunchKernel_ptsz" in called
    assert "cuLaunchKernel" not in called


@pytest.mark.parametrize("mode", ["enforce", "report"])
def test_a_sum_that_overflows_is_refused(cards, mode):
    """Also where limits are only reported: more than the counter holds is more than any card has."""
    cards.limits(memory=GIB, mode=mode)
    code = """
init(); assert alloc(MIB)[0] == 0; before = info()[1]
answer(*(alloc((1 << 64) - n)[0] for n in (1, MIB, GIB)), info()[1] == before, alloc(MIB)[0])
"""
    assert cards.python(code, env=cards.env(managed=True)) == [[2, 2, 2, True, 0]]


def test_free_memory_is_never_more_than_the_slice(cards):
    """A slice that shrinks below what is in use has nothing free, not 17 exabytes."""
    cards.limits(memory=GIB)
    code = """
init(); assert alloc(512 * MIB)[0] == 0; answer(info()); sys.stdin.readline(); time.sleep(0.3); answer(info()); answer(info())
"""
    program = cards.start_python(code, env=cards.env(managed=True))
    program.stdout.readline()
    cards.limits(memory=256 * MIB, generation=2)
    program.stdin.write("\n")
    program.stdin.flush()
    program.stdout.readline()
    assert json.loads(program.stdout.readline()) == [[0, 0, 256 * MIB]]
