"""Health on its way from NVML to the kubelet and the VGPUNode, and back again."""

from types import SimpleNamespace

import pynvml
import pytest
from agent_under_test import GPU_A, GPU_B, card
from hypothesis import given
from hypothesis import strategies as st

from mica_api import names
from mica_api.allocation import GPUShare
from mica_api.sharing import Sharing
from mica_device_plugin.devices import device_lists
from mica_device_plugin.discovery import DriverProblem, NvmlDiscovery
from mica_device_plugin.values import Pin, PinnedContainer, PoolChoice


async def test_a_sick_card_takes_its_share_of_the_devices_and_gives_it_back(agent, kubelet):
    agent.cards.cards = (card(GPU_A), card(GPU_B, 1, healthy=False))
    await kubelet.wait_devices(names.RESOURCE_NUMBER, healthy=10, total=20)
    await kubelet.wait_devices(names.RESOURCE_CORES, healthy=100, total=200)
    await kubelet.wait_devices(names.RESOURCE_MEMORY, healthy=80, total=160)
    await agent.eventually(lambda: agent.cluster.object["spec"]["gpus"][1]["health"] == "Unhealthy")
    agent.cards.cards = (card(GPU_A), card(GPU_B, 1))
    await kubelet.wait_devices(names.RESOURCE_NUMBER, healthy=20, total=20)


async def test_a_silent_driver_makes_every_card_sick_and_says_so(agent, kubelet):
    agent.cards.problem = "NVML does not answer: driver unloaded"
    await kubelet.wait_devices(names.RESOURCE_NUMBER, healthy=0, total=20)
    await agent.eventually(lambda: agent.cluster.object["spec"]["gpus"][0]["health"] == "Unhealthy")
    await agent.eventually(lambda: "driver unloaded" in str(agent.cluster.object["status"]["conditions"]))
    agent.cards.problem = None
    await kubelet.wait_devices(names.RESOURCE_NUMBER, healthy=20, total=20)


async def test_a_node_that_never_showed_a_gpu_gets_no_vgpunode_and_is_ready(new_agent, kubelet):
    running = new_agent()
    running.cards.problem = "NVML does not answer: library not found"
    await running.start()
    await kubelet.wait_registered()
    checks = running.agent.ready_checks()
    await running.eventually(lambda: all(check() for check in checks.values()))
    assert running.cluster.object is None and running.cluster.writes == 0
    running.cards.problem = None
    await running.eventually(lambda: running.cluster.object is not None)
    assert len(running.cluster.object["spec"]["gpus"]) == 2


async def test_a_known_node_whose_driver_never_answers_says_so(new_agent, kubelet):
    first = new_agent()
    await first.start()
    await first.eventually(lambda: first.cluster.object is not None)
    await first.stop()
    second = new_agent(cluster=first.cluster)
    second.cards.problem = "NVML does not answer: driver unloaded"
    await second.start()
    await second.eventually(lambda: "driver unloaded" in str(second.cluster.object["status"]["conditions"]))


def test_slots_of_containers_on_healthy_cards_stay_healthy():
    pins = [
        Pin("a", "ns", "a", (PinnedContainer("c", (GPUShare(GPU_A, 1, 1),), ("slot-3",)),)),
        Pin("b", "ns", "b", (PinnedContainer("c", (GPUShare(GPU_B, 1, 1),), ("slot-0",)),)),
    ]
    lists = device_lists((card(GPU_A), card(GPU_B, 1, healthy=False)), pool=PoolChoice("p", Sharing(2)), pins=pins)
    assert [(d.id, d.healthy) for d in lists[names.RESOURCE_NUMBER]] == [
        ("slot-0", False),
        ("slot-1", True),
        ("slot-2", False),
        ("slot-3", True),
    ]


@given(st.lists(st.booleans(), max_size=16), st.integers(1, 64))
def test_healthy_devices_are_exactly_those_of_healthy_cards(health, max_slices):
    cards = [card(f"GPU-{i}", i, healthy=ok) for i, ok in enumerate(health)]
    lists = device_lists(cards, pool=PoolChoice("p", Sharing(max_slices)), pins=())
    well = sum(health)
    counts = {resource: sum(d.healthy for d in devices) for resource, devices in lists.items()}
    assert counts == {
        names.RESOURCE_NUMBER: well * max_slices,
        names.RESOURCE_CORES: well * 100,
        names.RESOURCE_MEMORY: well * 80,
    }
    assert all(len({d.id for d in devices}) == len(devices) and len(d.id) <= 63 for devices in lists.values() for d in devices)


class FakeNvml:
    """Two cards with pynvml's functions; ``lost`` ones fail, ``gone`` makes everything fail."""

    def __init__(self) -> None:
        self.lost: set[int] = set()
        self.gone = False

    def nvmlInit(self) -> None:
        self._check()

    def nvmlShutdown(self) -> None:
        pass

    def nvmlSystemGetDriverVersion(self) -> str:
        self._check()
        return "580.95.05"

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        if handle in self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA H100"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=80 * 2**30, used=2**30)

    def nvmlDeviceGetPciInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(busId=f"00000000:{handle}8:00.0")

    def nvmlDeviceGetNvLinkState(self, handle: int, link: int) -> int:
        return int(link < 4)

    def nvmlDeviceGetNvLinkRemotePciInfo(self, handle: int, link: int) -> SimpleNamespace:
        return self.nvmlDeviceGetPciInfo(1 - handle)

    def __getattr__(self, name: str) -> object:
        def unsupported(*_: object) -> None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

        return unsupported

    def _check(self) -> None:
        if self.gone:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)


def test_cards_are_described_and_unsupported_questions_left_out():
    survey = NvmlDiscovery(simulated=False, nvml=FakeNvml()).survey()
    first = survey.inventory.gpus[0]
    assert (first.uuid, first.memory_mib, first.pci, first.numa) == ("GPU-0", 81920, "00000000:08:00.0", None)
    assert [(link.uuid, link.type) for link in first.links] == [("GPU-1", "NV4")]
    assert survey.readings["GPU-0"].memory_used == 2**30 and survey.readings["GPU-0"].utilization is None


def test_one_lost_card_does_not_stop_the_other_and_may_come_back():
    nvml = FakeNvml()
    discovery = NvmlDiscovery(simulated=False, nvml=nvml)
    discovery.survey()
    nvml.lost = {1}
    assert [g.healthy for g in discovery.survey().inventory.gpus] == [True, False]
    nvml.lost = set()
    assert [g.healthy for g in discovery.survey().inventory.gpus] == [True, True]


def test_a_driver_that_is_away_is_a_problem_until_it_is_back():
    nvml = FakeNvml()
    discovery = NvmlDiscovery(simulated=False, nvml=nvml)
    nvml.gone = True
    with pytest.raises(DriverProblem, match="NVML does not answer"):
        discovery.survey()
    nvml.gone = False
    assert len(discovery.survey().inventory.gpus) == 2


class WiredNvml(FakeNvml):
    """Cards without NVLink at a given distance."""

    def __init__(self, ancestor: int) -> None:
        super().__init__()
        self.ancestor = ancestor

    def nvmlDeviceGetNvLinkState(self, handle: int, link: int) -> int:
        return 0

    def nvmlDeviceGetTopologyCommonAncestor(self, handle: int, other: int) -> int:
        return self.ancestor

    def nvmlDeviceGetNumaNodeId(self, handle: int) -> int:
        return handle


@pytest.mark.parametrize(
    ("ancestor", "word"),
    [
        (pynvml.NVML_TOPOLOGY_SINGLE, "PIX"),
        (pynvml.NVML_TOPOLOGY_MULTIPLE, "PXB"),
        (pynvml.NVML_TOPOLOGY_HOSTBRIDGE, "PHB"),
        (pynvml.NVML_TOPOLOGY_NODE, "NODE"),
        (pynvml.NVML_TOPOLOGY_SYSTEM, "SYS"),
    ],
)
def test_distances_without_nvlink_are_written_as_the_vendor_writes_them(ancestor, word):
    first, second = NvmlDiscovery(simulated=False, nvml=WiredNvml(ancestor)).survey().inventory.gpus
    assert [(link.uuid, link.type) for link in first.links] == [("GPU-1", word)]
    assert (first.numa, second.numa) == (0, 1)


class SwitchedNvml(FakeNvml):
    """Every NVLink ends at a switch."""

    def nvmlDeviceGetNvLinkState(self, handle: int, link: int) -> int:
        return 1

    def nvmlDeviceGetNvLinkRemotePciInfo(self, handle: int, link: int) -> SimpleNamespace:
        return SimpleNamespace(busId="00000000:FF:00.0")

    def nvmlDeviceGetNvLinkRemoteDeviceType(self, handle: int, link: int) -> int:
        return int(pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH)


def test_links_to_a_switch_connect_every_card():
    assert [link.type for link in NvmlDiscovery(simulated=False, nvml=SwitchedNvml()).survey().inventory.gpus[0].links] == [
        "NV18"
    ]
