"""What the node agent writes into a limits file is what the limiter's parser reads in it, for any limits at all."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica_api.allocation import GPUShare
from mica_api.compute import COMPUTE_POLICIES, MAX_WEIGHT, PRIORITIES, Compute
from mica_api.request import MAX_NUMBER
from mica_device_plugin.limits import DRIVER_IN_CONTAINER, Limits, render_limits
from mica_device_plugin.values import SliceOwner

SOURCES = Path(__file__).parents[3] / "vgpu_shim" / "src"
LARGEST_MIB = 2**24  # a pool takes no larger card
POLICIES = {"strict": 0, "conserving": 1}
CLASSES = {"normal": 0, "high": 1, "low": 2}

limits = st.builds(
    Limits,
    st.just(SliceOwner("7a0f", "main")),
    st.lists(
        st.builds(GPUShare, st.uuids().map(lambda one: f"GPU-{one}"), st.integers(1, LARGEST_MIB), st.integers(0, 100)),
        max_size=MAX_NUMBER,
    ).map(tuple),
    st.builds(Compute, st.sampled_from(COMPUTE_POLICIES), st.sampled_from(PRIORITIES), st.integers(1, MAX_WEIGHT)),
    st.booleans(),
    st.sampled_from([DRIVER_IN_CONTAINER, None]),
)


@pytest.fixture(scope="session")
def reader(shim):
    return shim.compile("limits_seen.c", str(SOURCES / "limits.c"), f"-I{SOURCES}", "-D_GNU_SOURCE")


@settings(max_examples=100)
@given(written=limits, generation=st.integers(0, 2**60))
def test_every_field_arrives(reader, tmp_path_factory, written, generation):
    path = tmp_path_factory.getbasetemp() / "limits"
    path.write_bytes(render_limits(written, generation=generation))
    file, *cards = subprocess.run([reader, path], capture_output=True, text=True, check=True).stdout.splitlines()
    assert file == f"{generation} 1 {int(written.oversubscribe)} {written.driver or ''} {len(written.shares)} -"
    compute = f"{written.compute.weight} {POLICIES[written.compute.policy]} {CLASSES[written.compute.priority]}"
    assert cards == [f"{share.uuid} {share.memory_mib << 20} {share.cores} {compute}" for share in written.shares]
