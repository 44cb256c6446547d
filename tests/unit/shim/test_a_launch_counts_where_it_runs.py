"""A launch into a default stream counts on the card of the context that is current, whichever call made it so."""

import struct

import pytest

START = """
assert cu.cuInit(0) == 0
def context(device):
    made = ctypes.c_void_p()
    assert cu.cuCtxCreate_v2(ref(made), 0, device) == 0
    return made
out = ctypes.c_void_p()
first, second = context(0), context(1)
module, function = ctypes.c_void_p(), ctypes.c_void_p()
cu.cuModuleLoadData(ref(module), b"any"); cu.cuModuleGetFunction(ref(function), module, b"spin")
value = u64(1000); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
def launch(times):
    for _ in range(times):
        assert cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, params, None) == 0
def known(here):  # measured, in a batch that is open, and what is kept of the thread is kept
    assert cu.cuCtxSetCurrent(here) == 0
    for _ in range(20):
        launch(1)
        assert cu.cuCtxSynchronize() == 0
    launch(3)
"""
END = """
for here in (second, first):
    if here and cu.cuCtxSetCurrent(here) == 0:
        cu.cuCtxSynchronize()
answer(0)
"""
WAYS = {
    "set": "known(second); known(first); cu.cuCtxSetCurrent(second); launch(5)",
    "push": "known(second); known(first); cu.cuCtxPushCurrent_v2(second); launch(5)",
    "push, first form": "known(second); known(first); cu.cuCtxPushCurrent(second); launch(5)",
    "pop": "known(second); cu.cuCtxPushCurrent_v2(first); launch(23); cu.cuCtxPopCurrent_v2(ref(out)); launch(5)",
    "pop, first form": "known(second); cu.cuCtxPushCurrent(first); launch(23); cu.cuCtxPopCurrent(ref(out)); launch(5)",
    "create": "known(second); known(first); third = context(1); launch(5); cu.cuCtxSynchronize()",
    "destroy": "known(second); third = context(0); launch(23); cu.cuCtxSynchronize(); cu.cuCtxDestroy_v2(third); launch(5)",
}


def launches(cards, gpu):
    return struct.unpack_from("<Q", cards.region().read_bytes(), 4096 + 1024 * gpu + 200)[0]


@pytest.mark.parametrize("way", WAYS)
def test_however_the_context_was_made_current(cards, way):
    cards.configure(gpus=2)
    cards.limits(gpus=2, cores=50)
    assert cards.python(START + WAYS[way] + END, env=cards.env(managed=True)) == [[0]]
    assert [launches(cards, 0), launches(cards, 1)] == [23, 28]


@pytest.mark.parametrize(("before", "least", "most"), [("pass", 0, 16), ("cu.cuGetExportTable(ref(out), bytes(16))", 64, 128)])
def test_the_driver_is_asked_for_the_context_only_once_it_can_change_unseen(cards, before, least, most):
    """The driver's private tables can change it; whoever has asked for one may use it."""
    cards.configure(gpus=2, trace="1")
    cards.limits(gpus=2, cores=50)
    code = (
        START + f"known(first); {before}; cu.cuDriverGetVersion(ref(i32())); launch(64); cu.cuDriverGetVersion(ref(i32()))" + END
    )
    assert cards.python(code, env=cards.env(managed=True)) == [[0]]
    called = [line.split()[2] for line in (cards.directory / "trace").read_text().splitlines()]
    begin, end = [at for at, name in enumerate(called) if name == "cuDriverGetVersion"][-2:]
    asked = called[begin:end].count("cuCtxGetCurrent")
    assert called[begin:end].count("cuLaunchKernel") == 64
    assert least <= asked <= most
