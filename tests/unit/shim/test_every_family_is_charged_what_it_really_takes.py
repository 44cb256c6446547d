"""What the limiter charges is what the card gave, to the byte, whatever the driver rounds and keeps.

Granularity, pitch, pool chunk and overheads are drawn from a seed that the limiter does not know.
"""

import json

import pytest

MIB = 1 << 20

SEEDS = range(1, 4)

# A family is a way to take memory and one to give it back; sizes come from the seed. `truth()` is the simulator's own count.
PROGRAM = """
import random, subprocess
STATE = os.environ["TEST_STATE"]
seed, family = int(sys.argv[1]), sys.argv[2]
draw = random.Random(seed)
void, size_t = ctypes.c_void_p, ctypes.c_size_t

def truth():
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    processes = json.loads(subprocess.run([STATE], env=env, capture_output=True, check=True).stdout)["gpus"][0]["processes"]
    return sum(p["bytes"] for p in processes if p["pid"] == os.getpid())

def charged():
    error, free_bytes, total = info()
    assert error == 0
    return total - free_bytes

class Props(ctypes.Structure):
    _fields_ = [("type", i32), ("handles", i32), ("where", i32), ("id", i32), ("security", void), ("rest", ctypes.c_ubyte * 64)]
class Desc(ctypes.Structure):
    _fields_ = [("width", size_t), ("height", size_t), ("depth", size_t), ("format", i32), ("channels", i32), ("flags", i32)]

def pointer(call, *args):
    at = u64()
    return call(ref(at), *args), at

def linear():
    error, at = pointer(cu.cuMemAlloc_v2, size_t(draw.randrange(1, 40 * MIB)))
    return error, lambda: cu.cuMemFree_v2(at)

def managed():
    error, at = pointer(cu.cuMemAllocManaged, size_t(draw.randrange(1, 40 * MIB)), 1)
    return error, lambda: cu.cuMemFree_v2(at)

def pitch():
    row = size_t()
    error, at = pointer(cu.cuMemAllocPitch_v2, ref(row), size_t(draw.randrange(1, 5000)), size_t(draw.randrange(1, 5000)), 4)
    return error, lambda: cu.cuMemFree_v2(at)

def array():
    made, size = void(), (draw.randrange(1, 3000), draw.randrange(0, 3000), draw.choice((0, 0, 3)))
    desc = Desc(*size, draw.choice((1, 2, 3, 0x10, 0x20)), draw.choice((1, 2, 4)), 0)
    return cu.cuArray3DCreate_v2(ref(made), ref(desc)), lambda: cu.cuArrayDestroy(made)

def mipmap():
    made, desc = void(), Desc(draw.randrange(1, 3000), draw.randrange(1, 3000), 0, 0x20, 4, 0)
    return cu.cuMipmappedArrayCreate(ref(made), ref(desc), draw.randrange(1, 10)), lambda: cu.cuMipmappedArrayDestroy(made)

def unit():
    found = size_t()
    assert cu.cuMemGetAllocationGranularity(ref(found), ref(Props(1, 0, 1, 0)), 0) == 0
    return found.value

def virtual():
    bytes_, at, handle = size_t(unit() * draw.randrange(1, 2 + 40 * MIB // unit())), u64(), u64()
    error = cu.cuMemCreate(ref(handle), bytes_, ref(Props(1, 0, 1, 0)), u64(0))
    if error:
        return error, None
    assert cu.cuMemAddressReserve(ref(at), bytes_, size_t(0), u64(0), u64(0)) == 0
    assert cu.cuMemMap(at, bytes_, size_t(0), handle, u64(0)) == 0
    assert cu.cuMemRelease(handle) == 0
    return 0, lambda: cu.cuMemUnmap(at, bytes_)

def stream_ordered():
    error, at = pointer(cu.cuMemAllocAsync, size_t(draw.randrange(1, 20 * MIB)), None)
    return error, lambda: cu.cuMemFreeAsync(at, None)

own = []
def from_pool():
    if len(own) < 3:
        made = void()
        assert cu.cuMemPoolCreate(ref(made), ref(Props(1, 0, 1, 0))) == 0
        keep = u64(draw.choice((0, 30 * MIB, 2**64 - 1)))
        assert cu.cuMemPoolSetAttribute(made, 4, ref(keep)) == 0
        own.append(made)
    error, at = pointer(cu.cuMemAllocFromPoolAsync, size_t(draw.randrange(1, 20 * MIB)), draw.choice(own), None)
    return error, lambda: cu.cuMemFreeAsync(at, None)

def module():
    made = void()
    return cu.cuModuleLoadData(ref(made), b"image"), lambda: cu.cuModuleUnload(made)

FAMILIES = {f.__name__: [f] for f in (linear, managed, pitch, array, mipmap, virtual, stream_ordered, from_pool, module)}
FAMILIES["all"] = [f for (f,) in FAMILIES.values()]

EXACT = {'exact': lambda a, b: a == b, 'enough': lambda a, b: a >= b}[os.environ.get('TEST_ACCURACY', 'exact')]
assert init() == 0
assert EXACT(charged(), truth())
live, refused = [], 0
for step in range(400):
    if live and draw.random() < (0.35 if refused < 3 else 0.7):
        assert live.pop(draw.randrange(len(live)))() == 0
    else:
        error, give_back = draw.choice(FAMILIES[family])()
        assert error in (0, 2), error
        refused += error != 0
        if not error:
            live.append(give_back)
    if step % 5 == 0:
        cu.cuCtxSynchronize()
        assert truth() <= 900 * MIB, (step, truth())
        assert EXACT(charged(), truth()), (step, charged(), truth())
for give_back in live:
    assert give_back() == 0
cu.cuCtxSynchronize()
assert EXACT(charged(), truth())
answer(refused)
"""
FAMILIES = ["linear", "managed", "pitch", "array", "mipmap", "virtual", "stream_ordered", "from_pool", "module", "all"]


def exercise(cards, family, seed, environment=None, **config):
    cards.configure(memory_seed=str(seed), **config)
    code = f"sys.argv = ['', '{seed}', '{family}']\n" + PROGRAM
    env = cards.env(limited=True, MICA_MEMORY="900MiB", TEST_STATE=str(cards.shim.sim_state)) | (environment or {})
    ((refused,),) = cards.python(code, env=env)
    return refused


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_charge_is_the_cards_own_count_and_never_passes_the_cap(cards, family, seed):
    assert exercise(cards, family, seed) >= 1


NEIGHBOUR = """
import random
assert init() == 0
held = []
answer()
while True:
    held.append(alloc(random.randrange(1, 200 * MIB))[1])
    if len(held) > 5: assert free(held.pop(0)) == 0
"""


@pytest.mark.parametrize("seed", [2])
@pytest.mark.parametrize("family", ["all", "array", "module"])
def test_a_neighbour_who_allocates_all_the_time_changes_nothing(cards, family, seed):
    cards.configure(memory_seed=str(seed))
    neighbour = cards.start_python(NEIGHBOUR, env=cards.env())
    neighbour.stdout.readline()
    assert exercise(cards, family, seed) >= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_driver_that_cannot_say_what_an_array_takes_is_measured(cards, seed):
    faults = {"fault_0": "cuArrayGetMemoryRequirements:1+:801", "fault_1": "cuMipmappedArrayGetMemoryRequirements:1+:801"}
    for family in ("array", "mipmap"):
        assert exercise(cards, family, seed, **faults) >= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_where_nvml_cannot_see_the_process_the_charge_is_never_too_low(cards, seed):
    assert exercise(cards, "all", seed, environment={"MICA_NVML": "/nowhere", "TEST_ACCURACY": "enough"}) >= 1


# While another thread is about to be given memory: what the process holds cannot be told from what it is about to have.
CONTEXT_MEANWHILE = """
import threading
assert init() == 0
def stuck():
    assert init() == 0
    cu.cuMemAllocPitch_v2(ref(u64()), ref(u64()), ctypes.c_size_t(MIB), ctypes.c_size_t(8), 4)
threading.Thread(target=stuck, daemon=True).start()
while (used := info()[2] - info()[1]) < 8 * MIB: time.sleep(0.001)
error = cu.cuCtxCreate_v2(ref(ctypes.c_void_p()), 0, 0)
answer(error, info()[2] - info()[1] - used)
os._exit(0)
"""


def test_a_context_that_is_made_while_another_thread_allocates_is_not_charged_what_neighbours_hold(cards):
    cards.configure(fault_0="cuMemAllocPitch_v2:1:block")
    neighbour = cards.start_python("init(); answer(alloc(500 * MIB)[0]); sys.stdin.read()", env=cards.env())
    assert neighbour.stdout.readline() == "[0]\n"
    assert cards.python(CONTEXT_MEANWHILE, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[0, 0]]


WHILE_A_CONTEXT_IS_MADE = """
assert init() == 0
assert cu.cuMemAllocManaged(ref(u64()), ctypes.c_size_t(MIB), 1) == 0
call = ctypes.CFUNCTYPE(None)(lambda: alloc(100 * MIB))
ctypes.c_void_p.in_dll(ctypes.CDLL("PRELOAD"), "instrument_instead").value = ctypes.cast(call, ctypes.c_void_p).value
assert cu.cuCtxCreate_v2(ref(ctypes.c_void_p()), 0, 0) == 0
answer((info()[2] - info()[1]) // (100 * MIB))
"""


def test_what_is_allocated_while_a_context_is_made_is_charged_once_also_beside_managed_memory(cards):
    cards.configure(trace="1")
    preload = cards.shim.compile("instrument.c", "-shared", "-fPIC", "-ldl", "-lpthread", name="libinstrument.so")
    env = cards.env(limited=True, MICA_MEMORY="1GiB", INSTRUMENT="cuCtxCreate_v2")
    env["LD_PRELOAD"] = f"{preload}:{env['LD_PRELOAD']}"
    assert cards.python(WHILE_A_CONTEXT_IS_MADE.replace("PRELOAD", str(preload)), env=env) == [[1]]


# Calls that take more than they said, which does not fit, and what the driver is asked to take it back by.
REFUSED = {
    "cuMemFree_v2": "cu.cuMemAllocPitch_v2(ref(u64()), ref(u64()), ctypes.c_size_t(4), ctypes.c_size_t(1 << 17), 4)",
    "cuMemFreeAsync": "alloc(MIB // 2, lambda p, n: cu.cuMemAllocAsync(p, n, None))[0]",
    "cuArrayDestroy": "cu.cuArray3DCreate_v2(ref(ctypes.c_void_p()), ref((u64 * 5)(1, 1 << 17, 0, 1 << 32 | 0x20, 0)))",
}
UNTIL_IT_IS_GONE = """
assert init() == 0 and alloc(980 * MIB)[0] == 0
seen = []
call = ctypes.CFUNCTYPE(None)(lambda: seen.append((info()[2] - info()[1]) / MIB))
ctypes.c_void_p.in_dll(ctypes.CDLL("PRELOAD"), "instrument_instead").value = ctypes.cast(call, ctypes.c_void_p).value
answer(CALL, *seen, (info()[2] - info()[1]) / MIB)
"""


@pytest.mark.parametrize("back", REFUSED)
def test_what_is_refused_afterwards_stays_charged_until_the_driver_has_it_back(cards, back):
    cards.configure(trace="1", pool_chunk=str(64 * MIB), fault_0="cuArray3DCreate_v2:1:801")
    preload = cards.shim.compile("instrument.c", "-shared", "-fPIC", "-ldl", "-lpthread", name="libinstrument.so")
    env = cards.env(limited=True, MICA_MEMORY="1GiB", INSTRUMENT=back)
    env["LD_PRELOAD"] = f"{preload}:{env['LD_PRELOAD']}"
    code = UNTIL_IT_IS_GONE.replace("PRELOAD", str(preload)).replace("CALL", REFUSED[back])
    assert cards.python(code, env=env) == [[2, 980.5, 980]]


@pytest.mark.parametrize(
    ("how", "charged"),
    [("passing", 332), ("overlapping", 332), ("importing", 332), ("managed", 332), ("refresh", 300)],
)
def test_what_comes_and_goes_in_other_threads_while_the_overhead_is_measured_is_not_taken_for_it(cards, how, charged):
    """Nor is a module refused for it, or the context's charge lowered. Made-up driver, and a thread always in the way."""
    program = cards.shim.compile("overhead_race.c", *cards.shim.inside)
    done = cards.run(program, how, str(2048 * MIB), env=cards.env())
    assert json.loads(done.stdout) == [1, charged], done.stderr


@pytest.mark.parametrize("nvml", ["seen", "unseen"])
@pytest.mark.parametrize(("call", "thread"), [("cuModuleLoadData", ""), ("cuModuleLoadData", "1"), ("cuMemGetInfo_v2", "")])
def test_an_instrument_that_loads_code_while_the_driver_does_neither_hangs_nor_goes_uncharged(cards, call, thread, nvml):
    """Profilers are called from within the driver, and may wait there for another thread."""
    cards.configure(trace="1", context_overhead=str(300 << 20), module_overhead=str(32 << 20))
    preload = cards.shim.compile("instrument.c", "-shared", "-fPIC", "-ldl", "-lpthread", name="libinstrument.so")
    code = f"""
seen = ctypes.CDLL({str(preload)!r})
assert init() == 0
for _ in range(4):
    assert cu.cuModuleLoadData(ref(ctypes.c_void_p()), b"any") == 0
info()
answer(i32.in_dll(seen, "instrument_loads").value, i32.in_dll(seen, "instrument_failed").value, info()[2] - info()[1])
"""
    more = {"INSTRUMENT_THREAD": thread} if thread else {}
    more |= {"MICA_NVML": "/nowhere"} if nvml == "unseen" else {}
    env = cards.env(limited=True, MICA_MEMORY="1GiB", INSTRUMENT=call, **more)
    env["LD_PRELOAD"] = f"{preload}:{env['LD_PRELOAD']}"
    ((loads, failed, used),) = cards.python(code, env=env)
    assert (loads, failed) == (1, 0)
    assert used >= (300 + 4 * 32) << 20
    if nvml == "seen":
        assert used == (300 + 5 * 32) << 20
