"""Utilisation and processes as the simulated NVML shows them: samples of whole windows, in the structures of the real library."""

import json

NVML = """
import pynvml as n
n.nvmlInit(); h = n.nvmlDeviceGetHandleByIndex(0)
"""

SPIN = """
init(); module, function = ctypes.c_void_p(), ctypes.c_void_p()
cu.cuModuleLoadData(ref(module), b"any"); cu.cuModuleGetFunction(ref(function), module, b"spin")
value = u64(30_000_000); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
answer("on")
while True:
    cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, params, None); cu.cuCtxSynchronize()
    time.sleep(0.07)
"""


def test_utilisation_is_the_busy_share_of_the_last_whole_window(cards):
    """30 ms of work and 70 ms of sleep, over and over, in virtual time."""
    cards.configure(sample_ms="500", launch_ns="0", call_ns="0")
    worker = cards.start_python(SPIN, env=cards.member(0, join=2))
    code = (
        NVML
        + """
time.sleep(3); rates = n.nvmlDeviceGetUtilizationRates(h)
samples = [(s.pid, s.smUtil) for s in n.nvmlDeviceGetProcessUtilization(h, 0)]
answer(rates.gpu, samples)
"""
    )
    ((gpu, samples),) = cards.python(code, env=cards.member(1, join=2))
    assert json.loads(worker.stdout.readline()) == ["on"]
    assert 28 <= gpu <= 32
    assert [pid for pid, _ in samples] == [worker.pid]
    assert 28 <= samples[0][1] <= 32


def test_an_idle_card_has_no_utilisation_and_no_processes(cards):
    code = (
        NVML
        + """
def processes(call):
    try:
        return [p.pid for p in call(h)]
    except n.NVMLError as e:
        return type(e).__name__
answer(n.nvmlDeviceGetUtilizationRates(h).gpu, processes(n.nvmlDeviceGetComputeRunningProcesses),
       processes(n.nvmlDeviceGetGraphicsRunningProcesses), processes(n.nvmlDeviceGetMPSComputeRunningProcesses))
"""
    )
    assert cards.python(code, env=cards.env()) == [[0, [], [], []]]


def test_every_form_of_the_list_of_processes_says_the_same(cards):
    holder = cards.start(cards.shim.probe, "--alloc", str(1 << 30), "--hold", "60", env=cards.env())
    holder.stdout.readline()
    code = """
nv = ctypes.CDLL("libnvidia-ml.so.1"); nv.nvmlInit_v2(); h = ctypes.c_void_p(); nv.nvmlDeviceGetHandleByIndex_v2(0, ref(h))
class Short(ctypes.Structure):
    _fields_ = [("pid", ctypes.c_uint), ("bytes", u64)]
class Long(ctypes.Structure):
    _fields_ = [("pid", ctypes.c_uint), ("bytes", u64), ("gpu", ctypes.c_uint), ("compute", ctypes.c_uint)]
for name, form in (("", Short), ("_v2", Long), ("_v3", Long)):
    call = getattr(nv, "nvmlDeviceGetComputeRunningProcesses" + name); count = ctypes.c_uint(0)
    small = call(h, ref(count), None); rows = (form * 4)(); error = call(h, ref(count), rows)
    answer(small, error, count.value, rows[0].pid, rows[0].bytes)
"""
    assert cards.python(code, env=cards.env()) == [[7, 0, 1, holder.pid, 1 << 30]] * 3


def test_a_device_that_never_was_is_a_bad_argument_and_nothing_works_before_the_start(cards):
    code = """
nv = ctypes.CDLL("libnvidia-ml.so.1"); h, count = ctypes.c_void_p(), ctypes.c_uint()
answer(nv.nvmlDeviceGetCount_v2(ref(count)), nv.nvmlShutdown()); nv.nvmlInit_v2()
answer(nv.nvmlDeviceGetHandleByIndex_v2(7, ref(h)), nv.nvmlDeviceGetCount_v2(ref(count)), count.value, nv.nvmlShutdown())
"""
    assert cards.python(code, env=cards.env()) == [[1, 1], [2, 0, 1, 0]]
