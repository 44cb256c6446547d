"""What may be removed: pure decisions, and a force-deleted pod whose process still holds a GPU."""

import fcntl
import os
import struct

from agent_under_test import GPU_A, slice_pod
from hypothesis import given
from hypothesis import strategies as st

from mica_api.allocation import GPUShare
from mica_device_plugin import region
from mica_device_plugin.cleanup import Evidence, Removal, plan_removal
from mica_device_plugin.slices import OnDisk
from mica_device_plugin.values import Holder, Pin, PinnedContainer, SliceOwner, slice_key

F_OFD_SETLK = 37
KEY = slice_key(["slot-1"])
PIN = Pin("uid-1", "ns", "pod", (PinnedContainer("c", (GPUShare(GPU_A, 1, 1),), ("slot-1",)),))
DISK = OnDisk(pins={"uid-1": PIN}, slices={KEY: SliceOwner("uid-1", "c")}, specs=frozenset({KEY}))
NOTHING = Evidence(pods=frozenset(), assigned={}, live=frozenset())


def evidence(**signs) -> Evidence:
    return Evidence(**{"pods": frozenset(), "assigned": {}, "live": frozenset(), **signs})


def test_without_a_sign_of_life_everything_goes():
    assert plan_removal(DISK, NOTHING) == Removal(slices=(KEY,), pins=("uid-1",))


def test_any_one_sign_of_life_keeps_the_slice_and_its_pin():
    for sign in (
        evidence(pods=frozenset({"uid-1"})),
        evidence(assigned={KEY: Holder("ns", "pod", "c")}),
        evidence(live=frozenset({KEY})),
    ):
        assert not plan_removal(DISK, sign)


def test_ids_that_went_to_another_pod_are_no_sign_of_life():
    assert plan_removal(DISK, evidence(assigned={KEY: Holder("ns", "other", "c")})).slices == (KEY,)


def test_a_prepared_directory_waits_for_its_container():
    prepared = OnDisk(pins={}, slices={KEY: None}, specs=frozenset())
    assert not plan_removal(prepared, evidence(fresh=frozenset({KEY})))
    assert not plan_removal(prepared, evidence(assigned={KEY: Holder("ns", "pod", "c")}))
    assert plan_removal(prepared, NOTHING).slices == (KEY,)


def test_a_stray_spec_and_a_pin_without_slices_go():
    assert plan_removal(OnDisk({}, {}, frozenset({KEY})), NOTHING) == Removal(slices=(KEY,))
    unstarted = Pin("uid-2", "ns", "pod", (PinnedContainer("c", (GPUShare(GPU_A, 1, 1),)),))
    assert plan_removal(OnDisk({"uid-2": unstarted}, {}, frozenset()), NOTHING) == Removal(pins=("uid-2",))


def test_an_unreadable_pin_waits_for_the_end_of_its_pod():
    disk = OnDisk({}, {}, frozenset(), damaged=frozenset({"uid-1.json"}))
    assert not plan_removal(disk, evidence(pods=frozenset({"uid-1"})))
    assert plan_removal(disk, NOTHING) == Removal(damaged=("uid-1.json",))


uids = st.sampled_from(["a", "b", "c"])


@given(st.dictionaries(st.integers(0, 5), uids), st.frozensets(uids), st.frozensets(st.integers(0, 5)))
def test_what_is_alive_is_never_removed_and_removing_twice_removes_nothing_more(owned, pods, live):
    keys = {number: slice_key([f"slot-{number}"]) for number in range(6)}
    pins = {}
    for number, uid in owned.items():
        before = pins[uid].containers if uid in pins else ()
        pins[uid] = Pin(uid, "ns", uid, (*before, PinnedContainer(f"c{number}", (), (f"slot-{number}",))))
    slices = {keys[number]: SliceOwner(uid, f"c{number}") for number, uid in owned.items()}
    signs = evidence(pods=pods, live=frozenset(keys[n] for n in live))
    removal = plan_removal(OnDisk(pins, slices, frozenset(slices)), signs)
    for number, uid in owned.items():
        assert (keys[number] in removal.slices) == (uid not in pods and number not in live)
        assert not (uid in removal.pins and any(o == uid and n in live for n, o in owned.items()))
    left = OnDisk(
        {u: p for u, p in pins.items() if u not in removal.pins},
        {k: o for k, o in slices.items() if k not in removal.slices},
        frozenset(k for k in slices if k not in removal.slices),
    )
    assert not plan_removal(left, signs)


async def test_a_force_deleted_pod_whose_process_computes_keeps_its_share(agent, kubelet):
    pod = slice_pod(GPUShare(GPU_A, 3072, 20))
    agent.cluster.add(pod)
    given_ids = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given_ids)
    process = os.open(agent.layout.region_file(slice_key(given_ids.ids)), os.O_RDWR)
    lock = struct.pack("hhxxxxqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, region.SLOTS_OFFSET + 1024, 1, 0)
    fcntl.fcntl(process, F_OFD_SETLK, lock)
    kubelet.forget("uid-1")
    agent.cluster.delete(pod)
    other = slice_pod(GPUShare(GPU_A, 1024, 0), uid="uid-2", name="pod-2")
    agent.cluster.add(other)
    await kubelet.pre_start(await kubelet.allocate(uid="uid-2", pod="pod-2", container="c0"))
    await agent.eventually(lambda: len(agent.cluster.object["status"].get("slices", [])) == 2)
    assert {"uid-1", "uid-2"} == set(agent.agent.state.pins)
    os.close(process)
    await agent.eventually(lambda: set(agent.agent.state.pins) == {"uid-2"})


async def test_stray_and_damaged_files_neither_stop_the_agent_nor_stay(new_agent, kubelet):
    running = new_agent()
    for directory in (running.layout.slices, running.layout.pins / "directory"):
        directory.mkdir(parents=True)
    (running.layout.slices / "note.txt").write_text("of somebody else")
    (running.layout.slices / KEY).write_text("a file where a directory belongs")
    (running.layout.pins / "uid-1.json").write_text("{")
    (running.layout.pins / "note.txt").write_text("x")
    await running.start()
    await running.eventually(lambda: running.leftovers() == ["run/slices/note.txt"])


async def test_a_silent_kubelet_stops_cleanup(agent, kubelet):
    pod = slice_pod(GPUShare(GPU_A, 3072, 20))
    agent.cluster.add(pod)
    await kubelet.pre_start(await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0"))
    await kubelet.stop()
    agent.cluster.delete(pod)
    await agent.eventually(lambda: not agent.agent.state.registered)
    assert len(agent.leftovers()) == 3
    kubelet.assignments.clear()
    await kubelet.start()
    await agent.eventually(lambda: not agent.leftovers())
