"""The agent's smaller promises: what it installs, how it reads the checkpoint, what it measures, that stubs are current."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from agent_under_test import GPU_A, GPU_B, make_settings, slice_pod

from mica_api.allocation import GPUShare
from mica_device_plugin.agent import install
from mica_device_plugin.files import HostFiles
from mica_device_plugin.install import InstallError, RealDriverPresent, install_library
from mica_device_plugin.kubelet_state import InvalidCheckpoint, read_checkpoint
from mica_device_plugin.values import slice_key

ROOT = Path(__file__).parents[3]


def test_a_new_library_goes_beside_the_old_one(host):
    settings, files = make_settings(host), HostFiles()
    first = install_library(source=settings.lib_dir, target=host / "lib", files=files)
    assert first == install_library(source=settings.lib_dir, target=host / "lib", files=files)
    (settings.lib_dir / "libmica.so").write_text("newer")
    second = install_library(source=settings.lib_dir, target=host / "lib", files=files)
    assert first != second and (first / "libmica.so").read_text() == "content of libmica.so"
    assert (second / "ld.so.preload").read_text() == "/usr/lib/mica/libmica.so\n"


def test_a_damaged_installation_is_repaired(host):
    settings, files = make_settings(host), HostFiles()
    version = install_library(source=settings.lib_dir, target=host / "lib", files=files)
    (version / "libmica.so").write_text("damaged")
    install_library(source=settings.lib_dir, target=host / "lib", files=files)
    assert (version / "libmica.so").read_text() == "content of libmica.so"


class FullDisk(HostFiles):
    """Cannot write the named file."""

    def __init__(self, at: str) -> None:
        self.at = at

    def write(self, path: Path, data: bytes, *, mode: int, durable: bool = False) -> None:
        if path.name == self.at:
            raise OSError("no space left on device")
        super().write(path, data, mode=mode, durable=durable)


@pytest.mark.parametrize("at", ["libmica.so", "gpu-monitor", "ld.so.preload"])
def test_an_installation_is_there_as_a_whole_or_not_at_all(host, at):
    settings = make_settings(host)
    with pytest.raises(OSError, match="no space left"):
        install(settings, FullDisk(at), root=host)
    assert list((settings.layout().lib / "lib").iterdir()) == []


def test_what_a_killed_installation_left_is_removed(host):
    settings = make_settings(host)
    lib = settings.layout().lib
    left = [lib / "lib" / ".mica-tmp-1", lib / "sim" / ".mica-tmp-2", settings.sim_dir / ".mica-tmp-3"]
    for path in left[:2]:
        path.mkdir(parents=True)
        (path / "libmica.so").touch()
    left[2].parent.mkdir(parents=True)
    left[2].touch()
    installed = install(settings, HostFiles(), root=host)
    assert not any(path.exists() for path in left)
    assert list((lib / "lib").iterdir()) == [installed.library]


def test_an_incomplete_image_is_named(host):
    settings = make_settings(host)
    (settings.lib_dir / "gpu-monitor").unlink()
    with pytest.raises(InstallError, match="gpu-monitor is missing"):
        install(settings, HostFiles(), root=host)


@pytest.mark.parametrize("sign", ["proc/driver/nvidia/version", "dev/nvidiactl"])
def test_simulated_cards_are_never_installed_beside_a_real_driver(host, sign):
    (host / sign).parent.mkdir(parents=True)
    (host / sign).touch()
    with pytest.raises(RealDriverPresent, match="real NVIDIA driver"):
        install(make_settings(host), HostFiles(), root=host)
    assert not (host / "var" / "sim").exists()


def test_the_simulators_config_is_left_alone_while_its_source_stays_the_same(host):
    given = host / "given"
    given.write_text("version=1\n")
    settings = make_settings(host).model_copy(update={"sim_config": given})
    install(settings, HostFiles(), root=host)
    config = settings.sim_dir / "config"
    assert config.read_text() == "version=1\n"
    config.write_text("changed by a test\n")
    install(settings, HostFiles(), root=host)
    assert config.read_text() == "changed by a test\n"


def test_a_new_configuration_replaces_the_old_one_unless_slices_are_held(host):
    given = host / "given"
    given.write_text("version=1\n")
    settings = make_settings(host).model_copy(update={"sim_config": given})
    install(settings, HostFiles(), root=host)
    config, pins = settings.sim_dir / "config", settings.layout().pins
    given.write_text("version=1\ngpus=2\n")
    pins.mkdir()
    (pins / "uid-1.json").write_text("{}")
    install(settings, HostFiles(), root=host)
    assert config.read_text() == "version=1\n"
    (pins / "uid-1.json").unlink()
    install(settings, HostFiles(), root=host)
    assert config.read_text() == "version=1\ngpus=2\n"


def test_the_key_does_not_depend_on_the_order_of_ids():
    assert slice_key(["slot-2", "slot-10"]) == slice_key(["slot-10", "slot-2"]) == "929ec0b112ee8c9dd8ad94852863adf7"
    assert slice_key(["slot-1"]) != slice_key(["slot-1", "slot-2"])


@pytest.mark.parametrize(
    "data", ["", "[]", "{}", '{"Data":{}}', '{"Data":{"PodDeviceEntries":[{}]}}', '{"Data":{"PodDeviceEntries":[1]}}']
)
def test_a_checkpoint_of_another_shape_is_reported_as_such(data):
    with pytest.raises(InvalidCheckpoint):
        read_checkpoint(data.encode())


def test_ids_of_a_checkpoint_entry_are_joined_over_numa_nodes():
    entry = {
        "PodUID": "u",
        "ContainerName": "c",
        "ResourceName": "mica.dev/vgpu-number",
        "DeviceIDs": {"0": ["slot-1"], "1": ["slot-0"]},
    }
    other = {"ResourceName": "example.com/other"}
    (read,) = read_checkpoint(json.dumps({"Data": {"PodDeviceEntries": [entry, other]}}).encode())
    assert (read.pod_uid, read.container, read.key) == ("u", "c", slice_key(["slot-0", "slot-1"]))


async def test_every_series_of_a_slice_is_there_from_its_start_and_a_broken_region_is_counted(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    value = agent.agent.registry.get_sample_value
    labels = {"namespace": "default", "pod": "pod-1", "container": "c0", "gpu": GPU_A}
    assert value("mica_node_slice_memory_used_bytes", labels) == 0
    assert value("mica_node_slice_memory_limit_bytes", labels) == 3 * 2**30
    assert value("mica_node_slice_compute_limit_ratio", labels) == 0.2
    for name in ("compute_busy_seconds", "memory_denials", "throttled_seconds", "launches"):
        assert value(f"mica_node_slice_{name}_total", labels) == 0
    assert value("mica_node_refusals_total", {"reason": "OutOfMemory"}) == 0
    card = {"gpu": GPU_B, "model": "NVIDIA H100 80GB HBM3"}
    assert value("mica_node_gpu_healthy", card) == 1 and value("mica_node_gpu_slices_allocated", card) == 0
    assert value("mica_node_invalid_regions") == 0
    agent.layout.region_file(slice_key(given.ids)).write_bytes(b"rubbish")
    assert value("mica_node_invalid_regions") == 1
    assert value("mica_node_slice_memory_used_bytes", labels) == 0


async def test_ready_means_registered_written_installed_and_synced(agent):
    checks = agent.agent.ready_checks()
    await agent.eventually(lambda: all(check() for check in checks.values()))
    assert set(checks) == {"caches", "kubelet", "vgpunode", "library"}
    next(agent.layout.lib.glob("lib/*/libmica.so")).unlink()
    assert not checks["library"]()


def test_the_checked_in_stubs_are_what_the_protocols_compile_to(tmp_path):
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    subprocess.run([ROOT / "hack" / "generate_stubs.sh", tmp_path], check=True, env=environment)
    made = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert len(made) == 8
    for path in made:
        assert (tmp_path / path).read_text() == (ROOT / "device_plugin" / "src" / path).read_text(), (
            f"{path}: run `make generate`"
        )
