"""The agent says which functions the node's driver exports and the limiter lacks."""

import struct

from hypothesis import example, given
from hypothesis import strategies as st

from mica_device_plugin.driver_names import exported_names, lacking


def library(*names: str) -> bytes:
    """A 64-bit library that exports ``names`` and needs one undefined symbol."""
    strings = b"\0cuUndefined\0" + b"".join(name.encode() + b"\0" for name in names)
    symbols = [struct.pack("<IBBHQQ", 1, 0, 0, 0, 0, 0)]
    symbols += [struct.pack("<IBBHQQ", strings.index(b"\0" + n.encode() + b"\0") + 1, 18, 0, 1, 0, 0) for n in names]
    body = strings + b"".join(symbols)
    table = 64 + len(body)
    sections = struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, 64, len(strings), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 0, 11, 0, 0, 64 + len(strings), 24 * len(symbols), 0, 0, 8, 24)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 2, 0)
    return header + body + sections


def test_names_that_the_limiter_lacks_are_listed_in_order():
    driver, limiter = library("cuInit", "cuZeta", "cuNewLaunch", "dlsym", "cudnnCreate"), library("cuInit", "dlsym")
    assert lacking(driver=driver, limiter=limiter) == ("cuNewLaunch", "cuZeta")
    assert lacking(driver=limiter, limiter=driver) == ()


@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=8))
@example(cut=64, flips=[(47, 128)])
def test_bytes_that_are_no_library_have_no_names_and_do_no_harm(cut, flips):
    data = bytearray(library("cuInit", "cuMemAlloc_v2"))
    for at, value in flips:
        data[at % len(data)] = value
    assert all(name.startswith("cu") for name in exported_names(bytes(data[:cut])))


async def test_a_newer_driver_is_a_condition_and_a_metric(agent):
    await agent.stop()
    (agent.settings.sim_lib_dir / "libcuda.so.1").write_bytes(library("cuInit", "cuNewLaunch"))
    (agent.settings.lib_dir / "libmica.so").write_bytes(library("cuInit"))
    await agent.start()

    def told():
        stored = agent.cluster.stored()
        found = {c.type: c for c in (stored.status.conditions or [])} if stored and stored.status else {}
        return "LimiterComplete" in found and "cuNewLaunch" in (found["LimiterComplete"].message or "")

    await agent.eventually(told)
    assert agent.agent.registry.get_sample_value("mica_node_driver_names_unlimited") == 1
