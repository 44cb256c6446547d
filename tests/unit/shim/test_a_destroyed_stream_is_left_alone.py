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
