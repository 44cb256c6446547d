"""Batches of launches: opened, joined, closed and measured by several threads, whatever the order.

Without a mark of ours where it would change what the program's streams wait for.
"""

import json
import os
import struct
from pathlib import Path

import pytest

SHIM = Path(__file__).parents[3] / "vgpu_shim"
WORST_ORDERS = {
    "two threads open one in the same stream": [0],  # none is left under way
    "the first of two launches fails": [1, 1],  # one launch was learned from
    "closed when it is another stream's by now": [1, 1, 0],  # the same place, still open, not late
    "closed where another context is current": [1, 1],  # recorded in its own context, which is current no longer
    "closed beside blocking streams": [0, 1, 0],  # nothing recorded; under way until the stream is idle
    "opened while a capture begins": [0, 1],  # nobody joins; it ends with its launch
    "while a call may end its context": [0, 1, 1, 0, 1],  # not touched, nothing opened; goes on after, or is forgotten
}


@pytest.fixture
def answers(cards):
    """What programs/batches.c says."""
    flags = [
        "-D_GNU_SOURCE",
        "-fno-sanitize=undefined",
        f"-I{cards.shim.root / 'gen'}",
        f"-I{SHIM / 'src'}",
        f"-I{SHIM / 'hooks'}",
    ]
    lines = cards.run(cards.shim.compile("batches.c", *flags), env=cards.env()).stdout.splitlines()
    return dict(zip(WORST_ORDERS, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("order", WORST_ORDERS)
def test_in_the_worst_order_of_threads(answers, order):
    assert answers[order] == WORST_ORDERS[order]


START = """
assert init() == 0
module, function = ctypes.c_void_p(), ctypes.c_void_p()
cu.cuModuleLoadData(ref(module), b"any"); cu.cuModuleGetFunction(ref(function), module, b"spin")
def launch(ns, stream=None):
    value = u64(ns); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
    assert cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, params, None) == 0
def stream(flags=0):
    made = ctypes.c_void_p(); assert cu.cuStreamCreate(ref(made), flags) == 0; return made
"""

# Two blocking streams work side by side; what the legacy stream did before is long over when the second one begins.
OVERLAP = (
    START
    + """
for _ in range(20):
    launch(1000); cu.cuCtxSynchronize()
one, other = stream(), stream()
start = time.monotonic()
for _ in range(10):
    launch(1000)
    launch(20_000_000, one); WAIT; launch(20_000_000, other)
    cu.cuStreamSynchronize(one); cu.cuStreamSynchronize(other)
answer(time.monotonic() - start)
"""
)


@pytest.mark.parametrize("wait", ["time.sleep(0.006)", "cu.cuStreamSynchronize(third)", "cu.cuEventSynchronize(event)"])
def test_blocking_streams_overlap_as_they_do_without_the_limiter(cards, wait):
    """Simulated, in virtual time."""
    setup = "third, event = stream(1), ctypes.c_void_p(); cu.cuEventCreate(ref(event), 0)"
    setup += "; launch(6_000_000, third); cu.cuEventRecord(event, third)"
    wait = wait if "sleep" in wait else f"{setup}; {wait}"
    code = OVERLAP.replace("WAIT", wait)
    ((bare,),) = cards.python(code, env=cards.member(run="bare"))
    ((limited,),) = cards.python(code, env=cards.member(run="limited", limited=True, MICA_MEMORY="1GiB"))
    assert limited < bare * 1.05


def test_what_the_legacy_stream_did_beside_blocking_ones_is_still_charged(cards):
    code = (
        START
        + """
one = stream(); launch(5_000_000); cu.cuCtxSynchronize()
for _ in range(10):
    launch(5_000_000); time.sleep(0.02)
answer(cu.cuCtxSynchronize())
"""
    )
    env = cards.member(limited=True, MICA_MEMORY="1GiB")
    assert cards.python(code, env=env) == [[0]]
    (region,) = cards.directory.glob("mica-*.region")
    busy, launches = struct.unpack_from("<QQ", region.read_bytes(), 4096 + 192)
    assert launches == 11
    assert 45_000_000 < busy < 80_000_000


RECORDS = (
    START
    + """
def records():
    with open(os.path.join(os.environ["MICA_SIM_DIR"], "trace")) as trace:
        return sum(line.split()[2] == "cuEventRecord" for line in trace)
other = stream(1)
for _ in range(20):
    launch(1000, other); cu.cuCtxSynchronize()
captured = stream(1); assert cu.cuStreamBeginCapture_v2(captured, 2) == 0
END
before = records()
for _ in range(64):
    launch(1000, other)
answer(records() - before)
"""
)


@pytest.mark.parametrize("form", ["cuStreamDestroy", "cuStreamDestroy_v2"])
def test_a_capture_whose_stream_is_destroyed_no_longer_keeps_launches_apart(cards, form):
    cards.configure(trace="1")
    code = RECORDS.replace("END", f"assert cu.{form}(captured) == 0")
    ((records,),) = cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert records <= 32


def test_a_capture_that_goes_on_does(cards):
    cards.configure(trace="1")
    ((records,),) = cards.python(RECORDS.replace("END", "pass"), env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert records == 128


def test_a_context_that_could_not_be_destroyed_is_measured_as_before(cards):
    code = (
        START
        + """
context = ctypes.c_void_p(); cu.cuCtxGetCurrent(ref(context))
launch(300_000_000)
answer(cu.cuCtxDestroy_v2(context), cu.cuCtxSetCurrent(context), cu.cuCtxSynchronize())
"""
    )
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[201, 0, 0]]
    (region,) = cards.directory.glob("mica-*.region")
    (busy,) = struct.unpack_from("<Q", region.read_bytes(), 4096 + 192)
    assert 280_000_000 < busy < 400_000_000


def test_a_context_that_is_released_and_made_again_is_measured_each_time(cards):
    code = (
        START
        + """
for _ in range(10):
    launch(20_000_000); cu.cuCtxSynchronize()
    cu.cuDevicePrimaryCtxRelease_v2(0); assert init() == 0
    cu.cuModuleLoadData(ref(module), b"any"); cu.cuModuleGetFunction(ref(function), module, b"spin")
answer(0)
"""
    )
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[0]]
    (region,) = cards.directory.glob("mica-*.region")
    busy, launches = struct.unpack_from("<QQ", region.read_bytes(), 4096 + 192)
    assert launches == 10
    assert 190_000_000 < busy < 300_000_000


# The helper is held up in the driver's call that records the end of what runs in the context.
HELD_UP = (
    START
    + """
import threading
made = ctypes.c_void_p()
if CREATED:
    assert cu.cuCtxCreate_v2(ref(made), 0, 0) == 0
    cu.cuModuleLoadData(ref(module), b"any"); cu.cuModuleGetFunction(ref(function), module, b"spin")
def recorded():
    with open(os.path.join(os.environ["MICA_SIM_DIR"], "trace")) as trace:
        return sum(line.split()[2] == "cuEventRecord" for line in trace)
launch(1000); assert cu.cuCtxSynchronize() == 0
time.sleep(0.2); cu.cuCtxSynchronize()  # measured now: the next launch leaves its batch open
launch(1000)
while recorded() < 4: time.sleep(0.001)
second = threading.Thread(target=lambda: cu.CALL, daemon=True)
second.start(); second.join(1)
answer(second.is_alive())
os._exit(0)
"""
)


@pytest.mark.parametrize(
    "call",
    ["cuDevicePrimaryCtxRelease_v2(0)", "cuDevicePrimaryCtxRelease(0)", "cuDevicePrimaryCtxReset_v2(0)", "cuCtxDestroy_v2(made)"],
)
def test_a_context_is_not_ended_before_the_helper_is_out_of_it(cards, call):
    cards.configure(trace="1", **{"fault.0": "cuEventRecord:4:block"})
    code = HELD_UP.replace("CALL", call).replace("CREATED", str("made" in call))
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[True]]
    called = [line.split()[2] for line in (cards.directory / "trace").read_text().splitlines()]
    asked = call.startswith("cuDevicePrimaryCtxRelease_v2")  # once, for the handle, after retaining it
    assert called.count(call.split("(")[0]) == asked


@pytest.mark.exhaustive
def test_kernels_of_minutes_are_counted_and_harm_nothing(cards):
    """Longer than what a batch can be charged in advance: each is a batch of its own, and over when it is over."""
    env = cards.member(limited=True, MICA_CORES="50")
    found = cards.probe("--spin", "1500", "--kernel-us", "100000000", "--depth", "1", env=env)
    assert found["spin_error"] == 0
    region = (cards.directory / f"mica-{os.getuid()}-default.v2.region").read_bytes()
    inflight = struct.unpack_from("<q", region, 4096 + 144)[0]
    launches, batches = struct.unpack_from("<Q", region, 4096 + 200)[0], struct.unpack_from("<I", region, 4096 + 272)[0]
    assert launches == found["launches"]
    assert (inflight, batches & 0xFFFF) == (0, 0)
    assert cards.truth()["busy_ns"] / 1500e9 == pytest.approx(0.5, abs=0.1)
