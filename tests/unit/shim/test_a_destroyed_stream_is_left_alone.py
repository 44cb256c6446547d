"""What the limiter measures with events must not outlive the stream: the driver would follow a pointer that is gone."""

import pytest

CODE = """
assert init() == 0
module, function, stream = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
cu.cuModuleLoadData(ref(module), b"any"); cu.cuModuleGetFunction(ref(function), module, b"spin")
value = u64(30_000_000); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
for _ in range(3):
    assert cu.cuStreamCreate(ref(stream), 1) == 0
    assert cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, params, None) == 0
    assert cu.DESTROY(stream) == 0
    time.sleep(0.2)
answer(0)
"""

# Another thread, which waits for the card, is held up in the driver's call that records the end of what runs in the stream.
HELD_UP = """
import threading
assert init() == 0
module, function, stream, context = (ctypes.c_void_p() for _ in range(4))
cu.cuModuleLoadData(ref(module), b"any"); cu.cuModuleGetFunction(ref(function), module, b"spin")
cu.cuCtxGetCurrent(ref(context)); cu.cuStreamCreate(ref(stream), 1); other = ctypes.c_void_p(); cu.cuStreamCreate(ref(other), 1)
value = u64(1000); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
def launch():
    assert cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, params, None) == 0
def beside(call, *arguments):
    def work():
        cu.cuCtxSetCurrent(context)
        call(*arguments)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
def recorded():
    with open(os.path.join(os.environ["MICA_SIM_DIR"], "trace")) as trace:
        return sum(line.split()[2] == "cuEventRecord" for line in trace)
launch()
assert cu.cuCtxSynchronize() == 0  # its shape is known now, so that the next launch leaves its batch open
beside(lambda: (launch(), cu.cuCtxSynchronize()))
while recorded() < 4:
    pass
second = beside(CALL)
second.join(5)
answer(second.is_alive())
os._exit(0)
"""


@pytest.mark.parametrize("call", ["cu.cuStreamDestroy_v2, stream", "cu.cuStreamBeginCapture_v2, stream, 2"])
def test_who_destroys_or_captures_it_waits_for_a_thread_that_still_records_an_event_in_it(cards, call):
    cards.configure(trace="1", **{"fault.0": "cuEventRecord:4:block"})
    env = cards.env(limited=True, MICA_MEMORY="1GiB")
    assert cards.python(HELD_UP.replace("CALL", call), env=env) == [[True]]


def test_who_destroys_another_stream_does_not(cards):
    cards.configure(trace="1", **{"fault.0": "cuEventRecord:4:block"})
    env = cards.env(limited=True, MICA_MEMORY="1GiB")
    assert cards.python(HELD_UP.replace("CALL", "cu.cuStreamDestroy_v2, other"), env=env) == [[False]]


@pytest.mark.parametrize("call", ["cuStreamDestroy", "cuStreamDestroy_v2"])
def test_no_event_is_recorded_in_it_afterwards(cards, call):
    cards.configure(trace="1")
    env = cards.env(limited=True, MICA_MEMORY="1GiB", MICA_CORES="50")
    assert cards.python(CODE.replace("DESTROY", call), env=env) == [[0]]
    gone, late = set(), []
    for line in (cards.directory / "trace").read_text().splitlines():
        _, _, name, first, second, *_ = line.split()
        if name == call:
            gone.add(first)
        elif name.startswith("cuStreamCreate"):
            gone.clear()  # a handle may be given again
        elif name.startswith("cuEventRecord") and second in gone:
            late.append(line)
    assert gone
    assert late == []
