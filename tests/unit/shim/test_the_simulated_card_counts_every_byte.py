"""The simulated card's memory: each family takes what its parameters say, to the byte, and gives it back."""

import json

import pytest

GIB = 1 << 30
MIB = 1 << 20
KIB = 1 << 10

# A card whose parameters are all odd, so that no two roundings agree by chance.
ODD = {"granularity": str(256 * KIB), "pitch_align": "1024", "pool_align": "2048", "pool_chunk": str(3 * MIB)}

HELD = """
assert init() == 0
def held():
    error, free_bytes, total = info(); assert error == 0; return total - free_bytes
"""

ARRAYS = (
    HELD
    + """
class Array(ctypes.Structure):
    _fields_ = [("width", ctypes.c_size_t), ("height", ctypes.c_size_t), ("format", i32), ("channels", ctypes.c_uint)]
class Array3D(ctypes.Structure):
    _fields_ = [("width", ctypes.c_size_t), ("height", ctypes.c_size_t), ("depth", ctypes.c_size_t), ("format", i32),
                ("channels", ctypes.c_uint), ("flags", ctypes.c_uint)]
FLOAT, BYTE, BC1, LAYERED = 0x20, 0x01, 0x91, 1
made = ctypes.c_void_p()
"""
)

POOL = (
    HELD
    + """
class Props(ctypes.Structure):
    _fields_ = [("type", i32), ("handles", i32), ("where", i32), ("id", i32), ("security", ctypes.c_void_p),
                ("max_size", ctypes.c_size_t), ("usage", ctypes.c_ushort), ("reserved", ctypes.c_ubyte * 54)]
RESERVED, USED, THRESHOLD = 5, 7, 4
pool = ctypes.c_void_p()
assert cu.cuMemPoolCreate(ref(pool), ref(Props(1, 0, 1, 0))) == 0
def from_pool(size):
    at = u64(); error = cu.cuMemAllocFromPoolAsync(ref(at), ctypes.c_size_t(size), pool, None); return error, at
def attribute(which):
    value = u64(); assert cu.cuMemPoolGetAttribute(pool, which, ref(value)) == 0; return value.value
"""
)

VMM = (
    HELD
    + """
class Prop(ctypes.Structure):
    _fields_ = [("type", i32), ("handle_types", i32), ("where", i32), ("id", i32),
                ("security", ctypes.c_void_p), ("flags", ctypes.c_ubyte * 8)]
def create(size, where=1):
    handle = u64()
    return cu.cuMemCreate(ref(handle), ctypes.c_size_t(size), ref(Prop(1, 0, where, 0)), u64(0)), handle
def reserve(size):
    at = u64(); assert cu.cuMemAddressReserve(ref(at), ctypes.c_size_t(size), ctypes.c_size_t(0), u64(0), u64(0)) == 0
    return at
def unmap(at, size):
    return cu.cuMemUnmap(at, ctypes.c_size_t(size))
def unreserve(at, size):
    return cu.cuMemAddressFree(at, ctypes.c_size_t(size))
def map_(at, size, handle):
    return cu.cuMemMap(at, ctypes.c_size_t(size), ctypes.c_size_t(0), handle, u64(0))
"""
)


@pytest.fixture
def odd(cards):
    cards.configure(**ODD)
    return cards


@pytest.mark.parametrize(
    ("call", "bytes_"),
    [
        ("cu.cuMemAlloc_v2(ref(at), ctypes.c_size_t(1))", 256 * KIB),
        ("cu.cuMemAlloc_v2(ref(at), ctypes.c_size_t(256 << 10))", 256 * KIB),
        ("cu.cuMemAlloc_v2(ref(at), ctypes.c_size_t((256 << 10) + 1))", 512 * KIB),
        ("cu.cuMemAllocManaged(ref(at), ctypes.c_size_t(1), 1)", 256 * KIB),
        ("cu.cuMemAllocPitch_v2(ref(at), ref(pitch), ctypes.c_size_t(100), ctypes.c_size_t(1000), 4)", 1024 * KIB),
        ("cu.cuMemAllocPitch_v2(ref(at), ref(pitch), ctypes.c_size_t(1025), ctypes.c_size_t(1000), 4)", 2048 * KIB),
        ("cu.cuMemAllocAsync(ref(at), ctypes.c_size_t(1), None)", 3 * MIB),
    ],
)
def test_an_allocation_takes_whole_units_and_gives_them_back(odd, call, bytes_):
    code = HELD + f"at, pitch = u64(), ctypes.c_size_t(); answer({call}, held(), free(at.value), cu.cuCtxSynchronize(), held())"
    assert odd.python(code, env=odd.env()) == [[0, bytes_, 0, 0, 0]]


@pytest.mark.parametrize(
    ("shape", "bytes_"),
    [
        ("Array3D(100, 0, 0, FLOAT, 1, 0)", 256 * KIB),  # 400 bytes: one row of 1,024
        ("Array3D(100, 1000, 0, FLOAT, 1, 0)", 1024 * KIB),  # 1,000 rows of 1,024
        ("Array3D(100, 1000, 3, FLOAT, 4, 0)", 6144 * KIB),  # 3 planes of 1,000 rows of 2,048
        ("Array3D(4096, 1024, 0, BC1, 4, 0)", 2048 * KIB),  # 4 bits a texel, all channels
    ],
)
def test_arrays_are_rows_padded_to_the_pitch(odd, shape, bytes_):
    code = ARRAYS + f"answer(cu.cuArray3DCreate_v2(ref(made), ref({shape})), held(), cu.cuArrayDestroy(made), held())"
    assert odd.python(code, env=odd.env()) == [[0, bytes_, 0, 0]]


def test_a_mipmap_takes_the_sum_of_its_levels(odd):
    code = (
        ARRAYS
        + """
shape = Array3D(1024, 1024, 0, BYTE, 1, 0); level = ctypes.c_void_p()
answer(cu.cuMipmappedArrayCreate(ref(made), ref(shape), 3), held(), cu.cuMipmappedArrayGetLevel(ref(level), made, 1),
       cu.cuArrayDestroy(level), cu.cuMipmappedArrayGetLevel(ref(level), made, 3), cu.cuMipmappedArrayDestroy(made), held())
"""
    )
    levels = 1024 * (1024 + 512 + 256)  # rows are never shorter than the pitch of 1,024
    assert odd.python(code, env=odd.env()) == [[0, -(-levels // (256 * KIB)) * 256 * KIB, 0, 400, 1, 0, 0]]


@pytest.mark.parametrize(
    "shape", ["Array3D(0, 1, 0, FLOAT, 1, 0)", "Array3D(9, 1, 0, FLOAT, 3, 0)", "Array3D(9, 1, 0, 0x55, 1, 0)"]
)
def test_an_impossible_array_is_refused(odd, shape):
    code = ARRAYS + f"answer(cu.cuArray3DCreate_v2(ref(made), ref({shape})), held())"
    assert odd.python(code, env=odd.env()) == [[1, 0]]


def test_an_array_larger_than_any_card_is_out_of_memory_and_not_an_overflow(odd):
    code = ARRAYS + "answer(cu.cuArray3DCreate_v2(ref(made), ref(Array3D(1 << 62, 1 << 62, 1 << 62, FLOAT, 4, 0))), held())"
    assert odd.python(code, env=odd.env()) == [[2, 0]]


def test_a_pool_grows_by_chunks_and_keeps_them_until_the_host_waits(odd):
    code = (
        POOL
        + """
error, a = from_pool(1); error2, b = from_pool(3 * MIB)
answer(error, error2, attribute(USED), attribute(RESERVED), held())
answer(cu.cuMemFreeAsync(b, None), attribute(USED), attribute(RESERVED), held())
answer(cu.cuCtxSynchronize(), attribute(RESERVED), held())
answer(cu.cuMemFreeAsync(a, None), cu.cuStreamSynchronize(None), held(), cu.cuMemPoolDestroy(pool), held())
"""
    )
    used = 3 * MIB + 2048
    assert odd.python(code, env=odd.env()) == [
        [0, 0, used, 6 * MIB, 6 * MIB],
        [0, 2048, 6 * MIB, 6 * MIB],
        [0, 3 * MIB, 3 * MIB],
        [0, 0, 0, 0, 0],
    ]


def test_a_pool_keeps_what_its_threshold_allows_until_it_is_trimmed(odd):
    code = (
        POOL
        + """
keep = u64(6 * MIB); assert cu.cuMemPoolSetAttribute(pool, THRESHOLD, ref(keep)) == 0
_, a = from_pool(9 * MIB); answer(held()); cu.cuMemFreeAsync(a, None); cu.cuCtxSynchronize(); answer(held(), attribute(RESERVED))
answer(cu.cuMemPoolTrimTo(pool, ctypes.c_size_t(1)), held(), cu.cuMemPoolTrimTo(pool, ctypes.c_size_t(0)), held())
"""
    )
    assert odd.python(code, env=odd.env()) == [[9 * MIB], [6 * MIB, 6 * MIB], [0, 3 * MIB, 0, 0]]


def test_a_destroyed_pool_lives_until_its_last_allocation_is_freed(odd):
    code = POOL + "_, a = from_pool(MIB); answer(cu.cuMemPoolDestroy(pool), held(), from_pool(1)[0], free(a.value), held())"
    assert odd.python(code, env=odd.env()) == [[0, 3 * MIB, 1, 0, 0]]


def test_virtual_memory_is_counted_by_handles_and_mappings(odd):
    code = (
        VMM
        + """
error, h = create(MIB); a, b, again = reserve(MIB), reserve(MIB), u64()
answer(error, held(), map_(a, MIB, h), map_(b, MIB, h), held())
answer(cu.cuMemRelease(h), held(), cu.cuMemRetainAllocationHandle(ref(again), ctypes.c_void_p(a.value)),
       unmap(a, MIB), held())
answer(cu.cuMemRelease(again), held(), unmap(b, MIB), held(), cu.cuMemRelease(again))
"""
    )
    assert odd.python(code, env=odd.env()) == [[0, MIB, 0, 0, MIB], [0, MIB, 0, 0, MIB], [0, MIB, 0, 0, 1]]


def test_virtual_memory_has_the_apis_limits(odd):
    code = (
        VMM
        + """
answer(create(MIB + 1)[0], create(1 << 40)[0], create(MIB, where=2)[0], held())
_, h = create(MIB); at = reserve(2 * MIB)
answer(map_(at, 2 * MIB, h), map_(at, MIB, h), map_(at, MIB, h), unreserve(at, 2 * MIB),
       unmap(at, 2 * MIB), unmap(at, MIB), unreserve(at, 2 * MIB))
"""
    )
    assert odd.python(code, env=odd.env()) == [[1, 2, 0, 0], [1, 0, 1, 1, 1, 0, 0]]


EXPORTER = (
    HELD
    + """
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_ubyte * 64)]
_, at = alloc(GIB); handle = Handle(); assert cu.cuIpcGetMemHandle(ref(handle), u64(at)) == 0
answer(bytes(handle).hex()); sys.stdin.readline(); answer(free(at)); sys.stdin.readline()
"""
)
IMPORTER = (
    HELD
    + """
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_ubyte * 64)]
handle = Handle.from_buffer_copy(bytes.fromhex(sys.stdin.readline())); at = u64()
cu.cuIpcOpenMemHandle_v2.argtypes = [ctypes.c_void_p, Handle, ctypes.c_uint]
answer(cu.cuIpcOpenMemHandle_v2(ctypes.addressof(at), handle, 1)); sys.stdin.readline()
answer(cu.cuIpcCloseMemHandle(at)); sys.stdin.readline()
"""
)


@pytest.mark.parametrize("end", ["free", "kill"])
def test_memory_shared_between_processes_is_freed_by_the_last_of_them(cards, end):
    exporter, importer = (cards.start_python(code, env=cards.env()) for code in (EXPORTER, IMPORTER))
    (handle,) = json.loads(exporter.stdout.readline())
    say(importer, handle)
    assert json.loads(importer.stdout.readline()) == [0]
    assert cards.truth()["memory_used"] == GIB  # once, not once for each
    if end == "free":
        say(exporter, "")
        assert json.loads(exporter.stdout.readline()) == [0]
    else:
        exporter.kill()
        exporter.wait()
    assert cards.truth()["memory_used"] == GIB
    say(importer, "")
    assert json.loads(importer.stdout.readline()) == [0]
    assert cards.truth()["memory_used"] == 0


def say(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()


def test_a_graphs_memory_is_taken_at_its_first_launch_and_kept_until_it_is_trimmed(odd):
    code = (
        HELD
        + """
class Props(ctypes.Structure):
    _fields_ = [("type", i32), ("handles", i32), ("where", i32), ("id", i32), ("security", ctypes.c_void_p),
                ("max_size", ctypes.c_size_t), ("usage", ctypes.c_ushort), ("reserved", ctypes.c_ubyte * 54)]
class Params(ctypes.Structure):
    _fields_ = [("pool", Props), ("access", ctypes.c_void_p), ("count", ctypes.c_size_t), ("size", ctypes.c_size_t), ("at", u64)]
graph, node, exe, value = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p(), u64()
params = Params(Props(1, 0, 1, 0), None, 0, MIB + 1, 0)
answer(cu.cuGraphCreate(ref(graph), 0), cu.cuGraphAddMemAllocNode(ref(node), graph, None, ctypes.c_size_t(0), ref(params)))
after = (ctypes.c_void_p * 1)(node); last = ctypes.c_void_p()
answer(cu.cuGraphAddMemFreeNode(ref(last), graph, after, ctypes.c_size_t(1), u64(params.at)),
       cu.cuGraphInstantiateWithFlags(ref(exe), graph, u64(0)), held())
answer(cu.cuGraphLaunch(exe, None), cu.cuGraphLaunch(exe, None), cu.cuCtxSynchronize(), held())
answer(cu.cuDeviceGetGraphMemAttribute(0, 2, ref(value)), value.value, cu.cuDeviceGraphMemTrim(0), held())
"""
    )
    size = MIB + 256 * KIB
    assert odd.python(code, env=odd.env()) == [[0, 0], [0, 0, 0], [0, 0, 0, size], [0, size, 0, 0]]


def test_contexts_and_modules_have_overhead_that_is_shown_apart(cards):
    cards.configure(context_overhead=str(300 * MIB), module_overhead=str(7 * MIB))
    code = (
        HELD
        + """
a = ctypes.c_void_p(); answer(cu.cuModuleLoadData(ref(a), b"any"), held()); sys.stdin.readline()
answer(cu.cuModuleUnload(a), held(), cu.cuDevicePrimaryCtxReset_v2(0)); sys.stdin.readline()
"""
    )
    program = cards.start_python(code, env=cards.env())
    assert json.loads(program.stdout.readline()) == [0, 307 * MIB]
    assert [p["overhead"] for p in cards.truth()["processes"]] == [307 * MIB]
    say(program, "")
    assert json.loads(program.stdout.readline()) == [0, 300 * MIB, 0]
    assert cards.truth()["memory_used"] == 0


@pytest.mark.parametrize(("managed", "error", "held"), [("device", 2, 0), ("oversubscribe", 0, 0)])
def test_managed_memory_beyond_the_card_is_refused_unless_the_card_oversubscribes(cards, managed, error, held):
    cards.configure(memory=64 * MIB, managed=managed)
    code = HELD + "at = u64(); answer(cu.cuMemAllocManaged(ref(at), ctypes.c_size_t(GIB), 1), held())"
    assert cards.python(code, env=cards.env()) == [[error, held]]


@pytest.mark.parametrize("seed", range(1, 9))
def test_a_seed_draws_parameters_and_the_sum_still_holds(cards, seed):
    """Whatever the seed drew: what all families hold is what the card lacks, and in the end there is nothing left of it."""
    cards.configure(memory=GIB * 4, memory_seed=str(seed))
    code = (
        VMM
        + """
step = ctypes.c_size_t(); assert cu.cuMemGetAllocationGranularity(ref(step), ref(Prop(1, 0, 1, 0)), 0) == 0
start = held(); unit = step.value; pitch = ctypes.c_size_t(); pointers = [u64() for _ in range(4)]
cu.cuMemAlloc_v2(ref(pointers[0]), ctypes.c_size_t(unit + 1)); one = held() - start
cu.cuMemAllocManaged(ref(pointers[1]), ctypes.c_size_t(1), 1); two = held() - start
cu.cuMemAllocPitch_v2(ref(pointers[2]), ref(pitch), ctypes.c_size_t(100), ctypes.c_size_t(3 * unit), 4); three = held() - start
error, h = create(unit); four = held() - start
cu.cuMemAllocAsync(ref(pointers[3]), ctypes.c_size_t(1), None); five = held() - start
answer(one == 2 * unit, two - one == unit, three - two == 3 * unit * pitch.value, four - three == unit,
       (five - four) % unit == 0 and five > four)
for p in pointers: assert free(p.value) == 0
cu.cuMemRelease(h); cu.cuCtxSynchronize(); answer(held() == start, start >= 150 * MIB, unit)
"""
    )
    sums, (clean, context, unit) = cards.python(code, env=cards.env())
    assert sums == [True] * 5
    assert (clean, context) == (True, True)
    assert unit in {65536 << n for n in range(7)}


def test_a_seed_that_matters_is_never_the_same_card(cards):
    drawn = set()
    for seed in range(6):
        cards.configure(memory_seed=str(seed))
        drawn.add(cards.python(HELD + "answer(held(), alloc(1)[0], held())", env=cards.env())[0][0])
        (cards.directory / "state").unlink()
    assert len(drawn) == 6
