"""Memory that lives longer than the call that took it: in graphs, in pools, in other processes."""

import json
import struct

import pytest

GIB = 1 << 30
MIB = 1 << 20

GRAPHS = """
void, size_t = ctypes.c_void_p, ctypes.c_size_t
def stream():
    made = void(); assert cu.cuStreamCreate(ref(made), 1) == 0; return made
def captured(*sizes, free=True):
    s, graph, exec_, at = stream(), void(), void(), []
    assert cu.cuStreamBeginCapture_v2(s, 2) == 0
    for size in sizes:
        p = u64(); assert cu.cuMemAllocAsync(ref(p), size_t(size), s) == 0; at.append(p)
        if free: assert cu.cuMemFreeAsync(p, s) == 0
    assert cu.cuStreamEndCapture(s, ref(graph)) == 0 and cu.cuGraphInstantiateWithFlags(ref(exec_), graph, u64(0)) == 0
    return exec_, s, at
used = lambda: (lambda i: (i[2] - i[1]) // MIB)(info())
init()
"""


def test_a_graph_is_charged_when_it_is_launched_and_until_it_is_trimmed(cards):
    code = (
        GRAPHS
        + """
exec_, s, at = captured(300 * MIB, free=False)
seen = [used(), cu.cuGraphLaunch(exec_, s), used(), cu.cuMemFree_v2(at[0]), used(), cu.cuDeviceGraphMemTrim(0), used()]
answer(*seen)
"""
    )
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[0, 0, 300, 0, 300, 0, 0]]


def test_a_graph_that_does_not_fit_is_refused_at_launch_and_takes_nothing(cards):
    code = (
        GRAPHS
        + """
exec_, s, at = captured(700 * MIB)
assert alloc(500 * MIB)[0] == 0
answer(cu.cuGraphLaunch(exec_, s), cu.cuGraphUpload(exec_, s), used())
"""
    )
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[2, 2, 500]]
    assert cards.truth()["memory_used"] == 0


def test_a_graph_that_allocates_one_after_the_other_needs_the_largest_only(cards):
    """The sum of its nodes is far above the cap, what the driver takes is not."""
    code = (
        GRAPHS
        + """
exec_, s, at = captured(*[800 * MIB] * 5)
answer(cu.cuGraphLaunch(exec_, s), used(), cu.cuGraphLaunch(exec_, s), used(), alloc(224 * MIB)[0], alloc(2 * MIB)[0])
"""
    )
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[0, 800, 0, 800, 0, 0]]


def test_memory_that_graphs_and_pools_keep_unused_makes_room_before_anything_is_refused(cards):
    code = (
        GRAPHS
        + """
exec_, s, at = captured(400 * MIB)
assert cu.cuGraphLaunch(exec_, s) == 0
pool, keep, p = void(), u64(2**64 - 1), u64()
assert cu.cuDeviceGetDefaultMemPool(ref(pool), 0) == 0 and cu.cuMemPoolSetAttribute(pool, 4, ref(keep)) == 0
assert cu.cuMemAllocAsync(ref(p), size_t(400 * MIB), s) == 0 and cu.cuMemFreeAsync(p, s) == 0 and cu.cuCtxSynchronize() == 0
answer(used(), alloc(GIB)[0], used(), alloc(MIB)[0])
"""
    )
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[800, 0, 1024, 2]]


@pytest.mark.parametrize("beside", ["launch", "trim"])
def test_a_launch_is_charged_whole_whatever_happens_while_it_is_charged(cards, beside):
    """Room that the card has already is counted on by one launch, and stays; made-up driver."""
    program = cards.shim.compile("graph_race.c", *cards.shim.inside)
    needed, charged = json.loads(cards.run(program, beside, env=cards.env()).stdout)
    assert charged >= needed


def test_a_destroyed_pool_is_charged_until_what_lives_in_it_is_gone(cards):
    code = (
        GRAPHS
        + """
class Props(ctypes.Structure):
    _fields_ = [("type", i32), ("handles", i32), ("where", i32), ("id", i32), ("security", void), ("rest", ctypes.c_ubyte * 64)]
pool, p, q = void(), u64(), u64()
assert cu.cuMemPoolCreate(ref(pool), ref(Props(1, 0, 1, 0))) == 0
for at in (p, q): assert cu.cuMemAllocFromPoolAsync(ref(at), size_t(300 * MIB), pool, None) == 0
seen = [cu.cuMemPoolDestroy(pool), used(), alloc(600 * MIB)[0], cu.cuMemFreeAsync(p, None), used(), cu.cuMemFree_v2(q), used()]
answer(*seen, cu.cuMemPoolDestroy(pool))
"""
    )
    found = cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert found == [[0, 600, 2, 0, 300, 0, 0, 1]]


def test_a_pool_can_be_trimmed_to_a_size(cards):
    code = (
        GRAPHS
        + """
pool, keep, p = void(), u64(2**64 - 1), u64()
assert cu.cuDeviceGetDefaultMemPool(ref(pool), 0) == 0 and cu.cuMemPoolSetAttribute(pool, 4, ref(keep)) == 0
assert cu.cuMemAllocAsync(ref(p), size_t(600 * MIB), None) == 0 and cu.cuMemFreeAsync(p, None) == 0
answer(used(), cu.cuMemPoolTrimTo(pool, size_t(200 * MIB)), used(), cu.cuMemPoolTrimTo(pool, size_t(0)), used())
"""
    )
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[600, 0, 200, 0, 0]]


OPEN = """
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_ubyte * 64)]
def give(pointer):
    handle = Handle(); assert cu.cuIpcGetMemHandle(ref(handle), u64(pointer)) == 0; return bytes(handle.bytes).hex()
def take(text):
    handle, at = Handle.from_buffer_copy(bytes.fromhex(text)), u64()
    return cu.cuIpcOpenMemHandle_v2(ref(at), handle, 1), at
assert init() == 0
for line in sys.stdin:
    answer(eval(line))
"""


def denials(cards, name):
    """Refusals that a slice with limits of its own has counted."""
    (region,) = cards.directory.rglob(f"*{name}*.region")
    return struct.unpack_from("<Q", region.read_bytes(), 4096 + 72)[0]


def ask(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())[0]


def test_memory_of_the_same_container_costs_nothing_to_open_and_that_of_another_its_size(cards):
    one = cards.env(limited=True, MICA_MEMORY="1GiB", MICA_SLICE="one")
    other = cards.env(limited=True, MICA_MEMORY="1GiB", MICA_SLICE="other")
    giver, sibling, stranger = (cards.start_python(OPEN, env=env) for env in (one, one, other))
    handle = ask(giver, "give(alloc(600 * MIB)[1])")
    assert ask(sibling, f"take('{handle}')[0]") == 0
    assert ask(sibling, "(info()[2] - info()[1]) // MIB") == 600
    assert ask(stranger, f"(r := take('{handle}'))[0]") == 0
    assert ask(stranger, "(info()[2] - info()[1]) // MIB") == 600
    assert ask(stranger, "alloc(500 * MIB)[0]") == 2
    assert ask(stranger, "cu.cuIpcCloseMemHandle(r[1])") == 0
    assert ask(stranger, "(info()[2] - info()[1]) // MIB") == 0


def test_a_handle_that_is_opened_twice_is_charged_once_until_it_is_closed_twice(cards):
    giver = cards.start_python(OPEN, env=cards.env(limited=True, MICA_MEMORY="1GiB", MICA_SLICE="one"))
    taker = cards.start_python(OPEN, env=cards.env(limited=True, MICA_MEMORY="1GiB", MICA_SLICE="other"))
    handle = ask(giver, "give(alloc(600 * MIB)[1])")
    used = "(info()[2] - info()[1]) // MIB"
    assert ask(taker, f"(r := take('{handle}'))[0] or (s := take('{handle}'))[0] or r[1].value - s[1].value") == 0
    assert ask(taker, used) == 600
    assert ask(taker, f"cu.cuIpcCloseMemHandle(r[1]) or {used}") == 600
    assert ask(taker, f"cu.cuIpcCloseMemHandle(r[1]) or {used}") == 0
    assert ask(taker, "cu.cuIpcCloseMemHandle(r[1])") == 1


@pytest.mark.parametrize("memory", ["2GiB", "1GiB"])  # room for both, and for one that pays for both
def test_a_handle_that_two_threads_open_at_once_is_charged_until_both_have_closed_it(cards, memory):
    """The second comes while the first asks the driver how much it is."""
    cards.configure(trace="1")
    giver = cards.start_python(OPEN, env=cards.env(limited=True, MICA_MEMORY="1GiB", MICA_SLICE="one"))
    handle = ask(giver, "give(alloc(600 * MIB)[1])")
    preload = cards.shim.compile("instrument.c", "-shared", "-fPIC", "-ldl", "-lpthread", name="libinstrument.so")
    env = cards.env(limited=True, MICA_MEMORY=memory, MICA_SLICE="other", INSTRUMENT="cuMemGetAddressRange_v2")
    env["LD_PRELOAD"] = f"{preload}:{env['LD_PRELOAD']}"
    taker = cards.start_python(OPEN, env=env)
    assert ask(taker, f"(tell := ctypes.CDLL({str(preload)!r})) and (second := []) or 0") == 0
    assert ask(taker, f"(call := ctypes.CFUNCTYPE(None)(lambda: second.append(take('{handle}')))) and 0") == 0
    assert (
        ask(
            taker,
            "setattr(ctypes.c_void_p.in_dll(tell, 'instrument_instead'), 'value', ctypes.cast(call, ctypes.c_void_p).value)",
        )
        is None
    )
    assert ask(taker, f"(r := take('{handle}'))[0] or second[0][0] or r[1].value - second[0][1].value") == 0
    used = "(info()[2] - info()[1]) // MIB"
    assert ask(taker, used) == 600
    assert ask(taker, f"cu.cuIpcCloseMemHandle(r[1]) or {used}") == 600
    assert ask(taker, f"cu.cuIpcCloseMemHandle(r[1]) or {used}") == 0
    assert denials(cards, "other") == 0


@pytest.mark.parametrize(
    ("cap", "found"),
    [(600, [0, 0, 0, 600, 600, 0]), (1200, [0, 0, 0, 600, 600, 0]), (0, [2, 2, 2, 0, 0, 0])],
    ids=["room for one", "room for both", "room for none"],
)
def test_whoever_opens_a_handle_that_another_thread_is_being_charged_for_gets_it_too(cards, cap, found):
    """The charge of one covers both, and nothing is refused or counted so; without room both are. Made-up driver."""
    program = cards.shim.compile("open_race.c", *cards.shim.inside, "-lpthread")
    assert json.loads(cards.run(program, str(cap), env=cards.env()).stdout) == found


def test_memory_that_was_unmapped_unseen_is_charged_until_another_comes_to_its_address(cards):
    """So the other one has its room. Closing it once is enough, and closing it again changes nothing. Made-up driver."""
    program = cards.shim.compile("open_race.c", *cards.shim.inside, "-lpthread")
    done = cards.run(program, "600", "reused", env=cards.env())
    assert json.loads(done.stdout) == [0, 0, 0, 600, 0, 0]


def test_what_another_container_exported_is_refused_where_it_does_not_fit(cards):
    giver = cards.start_python(OPEN, env=cards.env(limited=True, MICA_MEMORY="1GiB", MICA_SLICE="one"))
    taker = cards.start_python(OPEN, env=cards.env(limited=True, MICA_MEMORY="512MiB", MICA_SLICE="other"))
    handle = ask(giver, "give(alloc(600 * MIB)[1])")
    assert ask(taker, f"take('{handle}')[0]") == 2
    assert denials(cards, "other") == 1
    assert ask(taker, "alloc(512 * MIB)[0]") == 0


@pytest.mark.parametrize("end", ["free", "kill"])
def test_whoever_still_has_it_open_is_charged_when_its_owner_is_gone(cards, end):
    env = cards.env(limited=True, MICA_MEMORY="1GiB")
    giver, holder = (cards.start_python(OPEN, env=env) for _ in range(2))
    assert ask(giver, "(a := alloc(600 * MIB))[0]") == 0
    handle = ask(giver, "give(a[1])")
    assert ask(holder, f"(r := take('{handle}'))[0]") == 0
    if end == "free":
        assert ask(giver, "free(a[1])") == 0
    else:
        giver.kill()
        giver.wait()
    look = "(time.sleep(0.02), (info()[2] - info()[1]) // MIB)[1]"
    looks = [ask(holder, look) for _ in range(60)]
    assert looks[-1] == 600, looks
    assert ask(holder, "cu.cuIpcCloseMemHandle(r[1])") == 0
    assert ask(holder, "info()[1] // MIB") == 1024


def test_memory_of_another_api_is_charged_while_it_is_imported(cards):
    code = """
class Desc(ctypes.Structure):
    _fields_ = [("type", i32), ("fd", ctypes.c_uint64 * 2), ("size", ctypes.c_uint64), ("flags", ctypes.c_uint * 17)]
init(); made, desc = ctypes.c_void_p(), Desc(1)
desc.fd[0] = os.dup(1); desc.size = 700 * MIB
seen = [cu.cuImportExternalMemory(ref(made), ref(desc)), info()[1] // MIB, alloc(400 * MIB)[0]]
answer(*seen, cu.cuDestroyExternalMemory(made), info()[1] // MIB)
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[0, 324, 2, 0, 1024]]
