"""The memory cap is exact, for every family, any number of threads and processes, and whoever is killed."""

import json
import os
import signal
import time

import pytest

GIB = 1 << 30
MIB = 1 << 20
FAMILIES = ["linear", "async", "managed", "pitch", "vmm"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_exactly_its_cap_and_then_out_of_memory(cards, family):
    found = cards.probe("--fill", "--family", family, env=cards.env(limited=True, MICA_MEMORY="3GiB"))
    assert (found["total"], found["device_total"]) == (3 * GIB, 3 * GIB)
    assert (found["accepted"], found["error"], found["free_after"]) == (3 * GIB, 2, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_driver_rounds_up_counts(cards, family):
    """A request of 1 byte takes the granularity; the cap is on what the card really gave."""
    cards.configure(granularity=str(2 * MIB))
    step = 4 * MIB if family == "vmm" else 3 * MIB
    found = cards.probe("--fill", "--family", family, "--step", str(step), env=cards.env(limited=True, MICA_MEMORY="10MiB"))
    assert (found["accepted"] // step, found["free_after"]) == (2, 2 * MIB)


def test_one_request_far_beyond_the_cap_is_refused(cards):
    code = "init(); answer(alloc(2**63)[0], alloc(2**64 - 1)[0], alloc(GIB + 1)[0], alloc(GIB)[0])"
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[2, 2, 2, 0]]


def test_what_is_freed_is_available_again(cards):
    code = """
init()
for _ in range(300):
    a, b = alloc(600 * MIB), alloc(424 * MIB)
    assert (a[0], b[0], alloc(2 * MIB)[0], free(a[1]), free(b[1])) == (0, 0, 2, 0, 0)
answer(info())
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[[0, GIB, GIB]]]


def test_ten_thousand_live_blocks_are_each_given_back(cards):
    code = """
init(); blocks = [alloc(2 * MIB)[1] for _ in range(10_000)]
before = info()[1]
for block in blocks[::2] + blocks[1::2]:
    assert free(block) == 0
answer(before, info()[1])
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="20GiB")) == [[20 * GIB - 20_000 * MIB, 20 * GIB]]


def test_frees_of_unknown_pointers_reach_the_driver(cards):
    code = """
init(); error, pointer = alloc(MIB); answer(free(0), free(12345), free(pointer), free(pointer), cu.cuMemFreeAsync(u64(999), None))
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[0, 1, 0, 1, 1]]


def test_async_memory_may_be_freed_by_the_plain_call(cards):
    code = """
init(); pointer = u64(); assert cu.cuMemAllocAsync(ref(pointer), ctypes.c_size_t(GIB), None) == 0
answer(info()[1], free(pointer.value), info()[1])
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[0, 0, GIB]]


VMM = """
class Prop(ctypes.Structure):
    _fields_ = [("type", i32), ("handle_types", i32), ("where", i32), ("id", i32),
                ("security", ctypes.c_void_p), ("flags", ctypes.c_ubyte * 8)]
size, none = ctypes.c_size_t(512 * MIB), ctypes.c_size_t(0)
def create(where=1, number=0):
    handle = u64(); prop = Prop(1, 0, where, number)
    return cu.cuMemCreate(ref(handle), size, ref(prop), u64(0)), handle
def reserve():
    at = u64(); assert cu.cuMemAddressReserve(ref(at), size, none, u64(0), u64(0)) == 0; return at
used = lambda: (lambda i: (i[2] - i[1]) // MIB)(info())
init()
"""


def test_memory_that_is_mapped_stays_charged_after_its_handle_is_released(cards):
    """`create, map, release` in a loop must meet the cap: charging by handles alone has no limit."""
    code = (
        VMM
        + """
for _ in range(3):
    error, handle = create(); at = reserve()
    answer(error, error or cu.cuMemMap(at, size, none, handle, u64(0)), error or cu.cuMemRelease(handle), used())
answer(cu.cuMemUnmap(at, size)); assert used() == 1024
"""
    )
    found = cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert found == [[0, 0, 0, 512], [0, 0, 0, 1024], [2, 2, 2, 1024], [1]]


def test_memory_mapped_twice_and_retained_is_charged_until_the_last_of_all_goes(cards):
    code = (
        VMM
        + """
error, handle = create(); a, b, again = reserve(), reserve(), u64()
assert cu.cuMemMap(a, size, none, handle, u64(0)) == cu.cuMemMap(b, size, none, handle, u64(0)) == 0
assert cu.cuMemRetainAllocationHandle(ref(again), ctypes.c_void_p(a.value + 4096)) == 0
seen = [used()]
for step in (lambda: cu.cuMemRelease(handle), lambda: cu.cuMemUnmap(a, size), lambda: cu.cuMemUnmap(b, size),
             lambda: cu.cuMemRelease(again)):
    assert step() == 0
    seen.append(used())
answer(*seen)
"""
    )
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[512, 512, 512, 512, 0]]


def test_host_memory_is_not_charged(cards):
    code = VMM + "answer(create(where=2)[0], create(where=3, number=7)[0], used())"
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="256MiB")) == [[0, 0, 0]]


def test_what_a_destroyed_context_held_is_given_back(cards):
    code = """
init(); other = ctypes.c_void_p()
assert cu.cuCtxCreate_v2(ref(other), 0, 0) == 0 and alloc(700 * MIB)[0] == 0 and alloc(700 * MIB)[0] == 2
assert cu.cuCtxDestroy_v2(other) == 0
answer(info()[1]); assert alloc(700 * MIB)[0] == 0
cu.cuDevicePrimaryCtxRelease_v2(0); init(); answer(info()[1])
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[GIB], [GIB]]


@pytest.mark.parametrize(("processes", "threads"), [(1, 8), (4, 1), (3, 4)])
def test_threads_and_processes_that_race_get_the_cap_to_the_byte(cards, processes, threads):
    race = cards.shim.compile("race.c", str(cards.shim.driver), "-lpthread")
    env = cards.env(limited=True, MICA_MEMORY="900MiB")
    racers = [cards.start(race, str(threads), "400", env=env) for _ in range(processes)]
    held = [int(r.stdout.readline()) for r in racers]
    # one may have ended its filling while another still held blocks it gave back later: top up before counting
    assert sum(held) <= 900 * MIB
    topped = cards.start(race, "1", "0", env=env)
    assert sum(held) + int(topped.stdout.readline()) == 900 * MIB
    assert cards.truth()["memory_used"] == 900 * MIB


def test_memory_of_a_killed_process_is_available_within_a_second(cards):
    env = cards.env(limited=True, MICA_MEMORY="1GiB")
    watcher = cards.start_python("init(); answer()\nfor line in sys.stdin: answer(info()[1])", env=env)
    watcher.stdout.readline()
    victim = cards.start(cards.shim.probe, "--fill", "--hold", "60", env=env)
    victim.stdout.readline()
    assert cards.probe("--alloc", str(2 * MIB), env=env)["alloc_error"] == 2
    victim.kill()
    victim.wait()
    deadline = time.monotonic() + 1
    seen = ""
    while time.monotonic() < deadline and seen != f"[{GIB}]":
        watcher.stdin.write("?\n")
        watcher.stdin.flush()
        seen = watcher.stdout.readline().strip()
    assert seen == f"[{GIB}]"
    assert cards.probe("--alloc", str(GIB), env=env)["alloc_error"] == 0


def test_a_forked_child_neither_keeps_nor_frees_what_its_parent_holds(cards):
    env = cards.env(limited=True, MICA_MEMORY="1GiB")
    code = """
init(); assert alloc(GIB)[0] == 0
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
answer(child); time.sleep(60)
"""
    parent = cards.start_python(code, env=env)
    (child,) = json.loads(parent.stdout.readline())
    try:
        assert cards.probe("--alloc", str(2 * MIB), env=env)["alloc_error"] == 2
        parent.kill()
        parent.wait()
        assert cards.probe("--alloc", str(GIB), env=env)["alloc_error"] == 0
    finally:
        os.kill(child, signal.SIGKILL)


def test_slices_of_two_containers_do_not_see_each_other(cards):
    one, other = (
        cards.env(limited=True, MICA_MEMORY="1GiB", MICA_SLICE="one"),
        cards.env(limited=True, MICA_MEMORY="2GiB", MICA_SLICE="other"),
    )
    holder = cards.start(cards.shim.probe, "--fill", "--hold", "60", env=one)
    holder.stdout.readline()
    assert cards.probe("--fill", env=other)["accepted"] == 2 * GIB


def test_a_card_that_is_full_refuses_below_the_cap(cards):
    """The slice is a promise of the agent; a driver that says no is believed and nothing stays charged."""
    cards.configure(memory=GIB)
    code = "init(); answer(alloc(2 * GIB)[0], info()[1:], alloc(GIB)[0])"
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="4GiB")) == [[2, [GIB, GIB], 0]]
