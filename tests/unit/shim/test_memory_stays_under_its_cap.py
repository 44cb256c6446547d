"""The memory cap is exact, for every family, any number of threads and processes, and whoever is killed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

SHIM = Path(__file__).parents[3] / "vgpu_shim"

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


def test_async_memory_may_be_freed_by_the_plain_call_and_is_back_when_the_pool_lets_go_of_it(cards):
    code = """
init(); pointer = u64(); assert cu.cuMemAllocAsync(ref(pointer), ctypes.c_size_t(GIB), None) == 0
answer(info()[1], free(pointer.value), info()[1], cu.cuCtxSynchronize(), info()[1])
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[0, 0, 0, 0, GIB]]


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


def test_memory_that_is_unmapped_together_with_host_memory_is_given_back(cards):
    code = (
        VMM
        + """
at = u64(); assert cu.cuMemAddressReserve(ref(at), ctypes.c_size_t(3 * size.value), none, u64(0), u64(0)) == 0
for place, where in enumerate((2, 1, 1)):
    error, handle = create(where)
    assert error == cu.cuMemMap(u64(at.value + place * size.value), size, none, handle, u64(0)) == cu.cuMemRelease(handle) == 0
held = used()
answer(held, cu.cuMemUnmap(at, ctypes.c_size_t(3 * size.value)), used())
"""
    )
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[1024, 0, 0]]


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


def test_a_context_that_could_not_be_destroyed_keeps_its_charge(cards):
    code = "init(); c = ctypes.c_void_p(); cu.cuCtxGetCurrent(ref(c)); a = alloc(GIB)[1]; "
    code += "answer(cu.cuCtxDestroy_v2(c), info()[1], free(a), info()[1])"
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[201, 0, 0, GIB]]


POOLS = """
class Props(ctypes.Structure):
    _fields_ = [("type", i32), ("handles", i32), ("where", i32), ("id", i32), ("security", ctypes.c_void_p),
                ("size", ctypes.c_size_t), ("rest", ctypes.c_ubyte * 56)]
def make(device):
    pool, props = ctypes.c_void_p(), Props(1, 0, 1, device)
    return cu.cuMemPoolCreate(ref(pool), ref(props)), pool
def default(device):
    pool = ctypes.c_void_p(); assert cu.cuDeviceGetDefaultMemPool(ref(pool), device) == 0; return pool
def take(pool, size):
    at = u64(); return cu.cuMemAllocFromPoolAsync(ref(at), ctypes.c_size_t(size), pool, None)
def stream(device):
    context, made = ctypes.c_void_p(), ctypes.c_void_p()
    assert cu.cuDevicePrimaryCtxRetain(ref(context), device) == cu.cuCtxPushCurrent_v2(context) == 0
    assert cu.cuStreamCreate(ref(made), 1) == cu.cuCtxPopCurrent_v2(ref(context)) == 0
    return made
def take_async(stream, size):
    at = u64(); return cu.cuMemAllocAsync(ref(at), ctypes.c_size_t(size), stream)
init()
"""


def test_a_pool_is_charged_to_its_own_card(cards):
    cards.configure(gpus=2)
    cards.limits(gpus=2, memory=GIB)
    code = (
        "error, pool = make(1); answer(error, take(pool, GIB), take(pool, MIB), take(default(1), MIB), info()[1], alloc(GIB)[0])"
    )
    assert cards.python(POOLS + code, env=cards.env(managed=True)) == [[0, 0, 2, 2, GIB, 0]]


def test_stream_ordered_memory_is_charged_to_the_card_of_the_stream(cards):
    cards.configure(gpus=2)
    cards.limits(gpus=2, memory=GIB)
    code = "other = stream(1); answer(take_async(other, GIB), take_async(other, MIB), info()[1], take_async(None, GIB))"
    assert cards.python(POOLS + code, env=cards.env(managed=True)) == [[0, 2, GIB, 0]]
    assert [cards.truth(gpu)["memory_used"] for gpu in (0, 1)] == [0, 0]


def test_pools_and_streams_of_a_card_that_is_not_in_the_limits_give_nothing(cards):
    cards.configure(gpus=2)
    cards.limits(gpus=1, memory=GIB)
    code = "answer(make(1)[0], take(default(1), MIB), take_async(stream(1), MIB), take(make(0)[1], GIB))"
    assert cards.python(POOLS + code, env=cards.env(managed=True)) == [[800, 2, 2, 0]]


def test_a_request_that_must_fail_does_not_lose_what_others_hold(cards):
    cards.limits(memory=GIB, mode="report")
    code = "init(); alloc(GIB); answer(*[alloc(2**n - 1)[0] for n in (40, 47, 48, 49, 63, 64)]); time.sleep(60)"
    holder = cards.start_python(code, env=cards.env(managed=True))
    assert json.loads(holder.stdout.readline()) == [2] * 6
    used = int.from_bytes((cards.directory / "region").read_bytes()[4160:4166], "little")
    assert used == GIB


def test_the_total_is_never_less_than_what_the_living_hold(cards):
    program = cards.shim.compile("total.c", "-D_GNU_SOURCE", "-fno-sanitize=undefined", f"-I{SHIM / 'src'}")
    done = cards.run(program, "4", env=cards.env())
    looks, low, left_over = map(int, done.stdout.split())
    assert looks > 1000
    assert (low, left_over) == (0, 0)


def test_a_program_that_closes_our_descriptor_neither_drops_others_charges_nor_its_own(cards):
    env = cards.env(limited=True, MICA_MEMORY="3GiB")
    holder = cards.start(cards.shim.probe, "--alloc", str(GIB), "--hold", "60", env=env)
    holder.stdout.readline()
    code = """
init(); assert alloc(GIB)[0] == 0
links = {int(fd): os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
(ours,) = [fd for fd, path in links.items() if path.endswith(".region")]
os.dup2(os.open("/dev/null", os.O_RDWR), ours)
answer()
for line in sys.stdin: answer(info()[1])
"""
    closer = cards.start_python(code, env=env)
    closer.stdout.readline()
    assert cards.probe("--alloc", str(MIB), env=env)["free_after"] > GIB - 4 * MIB  # finds the closer dead, it seems
    deadline = time.monotonic() + 0.8
    while time.monotonic() < deadline:
        closer.stdin.write("?\n")
        closer.stdin.flush()
        free = json.loads(closer.stdout.readline())
    assert free == [GIB]
    assert cards.probe("--fill", env=env)["accepted"] == GIB


def test_forked_children_of_a_busy_program_are_refused_and_never_hang(cards):
    code = """
import signal, threading
init()
def work():
    while True: free(alloc(2 * MIB)[1])
for _ in range(4): threading.Thread(target=work, daemon=True).start()
seen = set()
for _ in range(60):
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        os._exit(max(alloc(2 * MIB)[0], cu.cuInit(0), free(12345)))
    seen.add(os.waitpid(child, 0)[1])
answer(*[os.waitstatus_to_exitcode(s) for s in seen]); os._exit(0)
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[3]]


def test_a_forked_child_of_a_program_that_only_looked_around_can_use_the_gpu(cards):
    code = """
pointer = u64(); cu.cuGetProcAddress_v2(b"cuInit", ref(pointer), 2000, u64(0), ref(i32()))
child = os.fork()
if child == 0: os._exit(init() or alloc(GIB)[0] or alloc(MIB)[0])
answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), init(), alloc(GIB)[0])
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[2, 0, 0]]


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


def test_a_child_that_is_forked_while_nvml_is_asked_for_utilisation_does_not_hang(cards):
    cards.limits()
    code = """
import signal, threading
assert init() == 0
nvml = ctypes.CDLL("libnvidia-ml.so.1"); card, rates = ctypes.c_void_p(), (ctypes.c_uint * 2)()
assert nvml.nvmlInit_v2() == nvml.nvmlDeviceGetHandleByIndex_v2(0, ref(card)) == 0
ask = threading.Thread(target=lambda: nvml.nvmlDeviceGetUtilizationRates(card, rates))
ask.start(); time.sleep(0.03)
child = os.fork()
if not child:
    signal.alarm(5)
    os._exit(nvml.nvmlDeviceGetUtilizationRates(card, rates))
ask.join()
answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    env = cards.env(managed=True)
    assert cards.python(code, env=env | {"LD_PRELOAD": f"{env['LD_PRELOAD']}:{cards.shim.front}"}) == [[0]]
