"""The simulated driver: it has to be right before anything tested on it means something."""

import json

import pytest

GIB = 1 << 30
MIB = 1 << 20


def test_memory_is_exact_to_its_granularity(cards):
    cards.configure(memory=100 * MIB, granularity="65536")
    found = cards.probe("--fill", "--step", "65537", env=cards.env())
    assert (found["accepted"] // 65537, found["error"]) == (100 * MIB // 131072, 2)


def test_what_one_process_holds_is_missing_for_another_until_it_is_killed(cards):
    holder = cards.start(cards.shim.probe, "--alloc", str(50 * GIB), "--hold", "60", env=cards.env())
    assert json.loads(holder.stdout.readline())["alloc_error"] == 0
    assert cards.probe("--alloc", str(31 * GIB), env=cards.env())["alloc_error"] == 2
    assert cards.truth()["memory_used"] == 50 * GIB
    assert cards.truth()["processes"][0]["pid"] == holder.pid
    holder.kill()
    holder.wait()
    assert cards.probe("--alloc", str(80 * GIB), env=cards.env())["alloc_error"] == 0


@pytest.mark.parametrize("family", ["linear", "async", "managed", "pitch", "vmm"])
def test_every_family_of_allocations_takes_physical_memory(cards, family):
    cards.configure(memory=64 * MIB)
    assert cards.probe("--fill", "--family", family, env=cards.env())["accepted"] == 64 * MIB


def test_vmm_memory_lives_until_handle_and_mapping_are_both_gone(cards):
    code = """
class Prop(ctypes.Structure):
    _fields_ = [("type", i32), ("handle_types", i32), ("where", i32), ("id", i32),
                ("security", ctypes.c_void_p), ("flags", ctypes.c_ubyte * 8)]
init(); prop = Prop(1, 0, 1, 0); handle, at, size = u64(), u64(), ctypes.c_size_t(GIB)
held = lambda: info()[2] - info()[1]
answer(cu.cuMemCreate(ref(handle), size, ref(prop), u64(0)),
       cu.cuMemAddressReserve(ref(at), size, ctypes.c_size_t(0), u64(0), u64(0)),
       cu.cuMemMap(at, size, ctypes.c_size_t(0), handle, u64(0)), held())
answer(cu.cuMemRelease(handle), held())
answer(cu.cuMemUnmap(at, size), held())
"""
    assert cards.python(code, env=cards.env()) == [[0, 0, 0, GIB], [0, GIB], [0, 0]]


def test_a_context_costs_its_overhead_once_per_process(cards):
    cards.configure(context_overhead=str(300 * MIB))
    found = cards.probe(env=cards.env())
    assert found["total"] - found["free"] == 300 * MIB


def test_two_processes_share_the_card_in_equal_slices(cards):
    other = cards.start(cards.shim.probe, "--spin", "4", "--kernel-us", "7000", env=cards.member(0, join=2))
    found = cards.probe("--spin", "2", "--kernel-us", "1000", env=cards.member(1, join=2))
    assert 0.40 < found["busy_share"] < 0.60
    assert other.wait(50) == 0


def test_work_of_a_killed_process_stops_counting(cards):
    victim = cards.start(cards.shim.probe, "--spin", "60", "--kernel-us", "20000", env=cards.env())
    cards.probe("--spin", "0.3", env=cards.env())
    victim.kill()
    victim.wait()
    cards.probe("--spin", "0.1", env=cards.env())
    before = cards.truth()["busy_ns"]
    cards.probe(env=cards.env())
    assert cards.truth()["busy_ns"] == before


EVENTS = """
init(); module, function = ctypes.c_void_p(), ctypes.c_void_p()
cu.cuModuleLoadData(ref(module), b"any"); cu.cuModuleGetFunction(ref(function), module, b"spin")
def stream():
    made = ctypes.c_void_p(); assert cu.cuStreamCreate(ref(made), 1) == 0; return made
def event():
    made = ctypes.c_void_p(); assert cu.cuEventCreate(ref(made), 0) == 0; return made
def spin(ns, on):
    value = u64(ns); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
    assert cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, on, params, None) == 0
def elapsed(a, b):
    out = ctypes.c_float(); error = cu.cuEventElapsedTime(ref(out), a, b); return error or round(out.value, 3)
"""


def test_a_stream_runs_in_order_and_events_time_it_exactly(cards):
    code = (
        EVENTS
        + """
s, a, b, c = stream(), event(), event(), event()
spin(9_000_000, s); cu.cuEventRecord(a, s); spin(3_000_000, s); cu.cuEventRecord(b, s); spin(2_000_000, s); cu.cuEventRecord(c, s)
answer(cu.cuEventQuery(c)); answer(cu.cuStreamSynchronize(s), elapsed(a, b), elapsed(b, c), cu.cuEventQuery(c))
"""
    )
    assert cards.python(code, env=cards.env()) == [[600], [0, 3.0, 2.0, 0]]


def test_streams_of_one_process_overlap_and_can_wait_for_each_other(cards):
    code = (
        EVENTS
        + """
s, t, a, b, c, d = stream(), stream(), event(), event(), event(), event()
cu.cuEventRecord(a, s); spin(50_000_000, s); spin(50_000_000, t); cu.cuEventRecord(b, t); cu.cuEventRecord(d, s)
cu.cuStreamWaitEvent(t, d, 0); spin(5_000_000, t); cu.cuEventRecord(c, t); cu.cuCtxSynchronize()
answer(50 <= elapsed(a, b) < 75, elapsed(d, c) >= 4.9)
"""
    )
    assert cards.python(code, env=cards.env()) == [[True, True]]


def test_a_launch_blocks_when_a_thousand_operations_wait(cards):
    code = (
        EVENTS
        + """
s = stream(); start = time.monotonic()
for _ in range(1400): spin(500_000, s)
answer(time.monotonic() - start > 0.1)
"""
    )
    assert cards.python(code, env=cards.env()) == [[True]]


def test_lookup_by_name_follows_version_and_stream_flavour(cards):
    code = """
def find(name, version, flags=0):
    pointer, status = ctypes.c_void_p(), i32(9)
    error = cu.cuGetProcAddress_v2(name, ref(pointer), version, u64(flags), ref(status))
    named = {ctypes.cast(getattr(cu, n), ctypes.c_void_p).value: n for n in
             ("cuMemAlloc", "cuMemAlloc_v2", "cuLaunchKernel", "cuLaunchKernel_ptsz", "cuGetProcAddress", "cuGetProcAddress_v2")}
    return error, status.value, named.get(pointer.value)
answer(find(b"cuMemAlloc", 2000), find(b"cuMemAlloc", 3020), find(b"cuLaunchKernel", 4000, 2), find(b"cuLaunchKernel", 7000, 2))
answer(find(b"cuMemAllocAsync", 11010), find(b"cuNoSuchThing", 13000),
       find(b"cuGetProcAddress", 11030), find(b"cuGetProcAddress", 12000))
"""
    assert cards.python(code, env=cards.env()) == [
        [[0, 0, "cuMemAlloc"], [0, 0, "cuMemAlloc_v2"], [0, 0, "cuLaunchKernel"], [0, 0, "cuLaunchKernel_ptsz"]],
        [[0, 2, None], [0, 1, None], [0, 0, "cuGetProcAddress"], [0, 0, "cuGetProcAddress_v2"]],
    ]


def test_only_visible_cards_are_shown(cards):
    cards.configure(gpus=3)
    env = cards.env(MICA_SIM_VISIBLE=f"{cards.uuid(2)},{cards.uuid(0)}")
    assert cards.probe(env=env)["devices"] == 2


@pytest.mark.parametrize("line", ["slices=3", "gpu.0.memory=lots", "gpu.0.uuid=GPU-1", "link.0.1=NV99", "no equals sign"])
def test_a_config_with_a_mistake_is_refused_and_the_line_is_named(cards, line):
    cards.write_config(f"version=1\ngpus=1\ngpu.0.uuid={cards.uuid(0)}\n{line}\n")
    done = cards.run(cards.shim.probe, env=cards.env())
    assert done.returncode == 1
    assert "line 4" in done.stderr


def test_a_forked_child_cannot_use_the_driver(cards):
    code = """
init(); pid = os.fork()
if pid == 0:
    os._exit(alloc(MIB)[0])
answer(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert cards.python(code, env=cards.env()) == [[3]]


def test_pynvml_works_unchanged(cards):
    cards.configure(gpus=2, gpu_0_numa="0", gpu_1_numa="0", link_0_1="NV18")
    holder = cards.start(cards.shim.probe, "--alloc", str(GIB), "--hold", "60", env=cards.env())
    holder.stdout.readline()
    code = """
import pynvml as n
n.nvmlInit()
a, b = (n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount()))
print(json.dumps([n.nvmlSystemGetDriverVersion(), n.nvmlSystemGetCudaDriverVersion_v2(),
    n.nvmlDeviceGetUUID(b), n.nvmlDeviceGetName(a),
    n.nvmlDeviceGetMemoryInfo(a).used, n.nvmlDeviceGetMemoryInfo(a, version=n.nvmlMemory_v2).free, n.nvmlDeviceGetNumaNodeId(a),
    n.nvmlDeviceGetTopologyCommonAncestor(a, b), n.nvmlDeviceGetNvLinkState(a, 17), n.nvmlDeviceGetPciInfo(b).busId,
    n.nvmlDeviceGetNvLinkRemotePciInfo(a, 0).busId, [p.pid for p in n.nvmlDeviceGetComputeRunningProcesses(a)],
    n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(b)))]))
"""
    (found,) = cards.python(code, env=cards.env())
    pci = "00000000:11:00.0"
    assert found == [
        "580.95.05",
        13000,
        cards.uuid(1),
        "NVIDIA H100 80GB HBM3",
        GIB,
        79 * GIB,
        0,
        40,
        1,
        pci,
        pci,
        [holder.pid],
        1,
    ]


def test_a_sick_card_sends_one_xid_event_and_recovers(cards):
    code = """
import pynvml as n
n.nvmlInit(); h = n.nvmlDeviceGetHandleByIndex(0); s = n.nvmlEventSetCreate()
n.nvmlDeviceRegisterEvents(h, n.nvmlEventTypeXidCriticalError, s)
def wait(ms):
    try:
        return n.nvmlEventSetWait_v2(s, ms).eventData
    except n.NVMLError as e:
        return type(e).__name__
def memory():
    try:
        return n.nvmlDeviceGetMemoryInfo(h).total
    except n.NVMLError as e:
        return type(e).__name__
answer("watching", wait(0)); answer(wait(20000), memory(), wait(0))
deadline = time.monotonic() + 20
while memory() != 80 * GIB and time.monotonic() < deadline:
    time.sleep(0.02)
answer(memory())
"""
    watcher = cards.start_python(code, env=cards.env())
    assert json.loads(watcher.stdout.readline()) == ["watching", "NVMLError_Timeout"]
    cards.configure(gpu_0_health="xid:79")
    assert json.loads(watcher.stdout.readline()) == [79, "NVMLError_GpuIsLost", "NVMLError_Timeout"]
    cards.configure()
    assert json.loads(watcher.stdout.readline()) == [80 * GIB]


def test_private_tables_are_not_imitated(cards):
    code = "init(); table = ctypes.c_void_p(1); answer(cu.cuGetExportTable(ref(table), bytes(16)), table.value)"
    assert cards.python(code, env=cards.env()) == [[500, None]]
