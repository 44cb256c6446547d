"""Programs compiled against NVIDIA's own headers run on the simulated driver under the limiter, and are limited."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

GIB = 1 << 30
MIB = 1 << 20
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def headers():
    """The folder of the headers."""
    spec = importlib.util.spec_from_file_location("cuda_headers", HERE / "cuda_headers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.include_directory()


def test_the_size_of_what_is_shared_with_nvml_is_the_headers(shim, headers, tmp_path):
    """Our own declarations against the real ones."""
    ours = (HERE.parents[2] / "vgpu_shim" / "nvml" / "front.h").read_text()
    pairs = {
        "nvmlMemory_t": "nvmlMemory_t",
        "nvmlMemory_v2_t": "nvmlMemory_v2_t",
        "nvmlProcessInfo_v1_t": "nvmlProcessInfo_v1_t",
        "nvmlProcessInfo_t": "nvmlProcessInfo_v2_t",
        "nvmlProcessDetail_t": "nvmlProcessDetail_v1_t",
        "nvmlProcessDetailList_t": "nvmlProcessDetailList_t",
        "nvmlProcessSample_t": "nvmlProcessUtilizationSample_t",
        "nvmlProcessesSample_t": "nvmlProcessUtilizationInfo_v1_t",
        "nvmlProcessesInfo_t": "nvmlProcessesUtilizationInfo_t",
        "nvmlPstatesInfo_t": "nvmlGpuDynamicPstatesInfo_t",
    }
    assert all(name in ours for name in pairs)
    text = re.sub(r"\b(nvml\w+)\b", r"mica_\1", ours.replace("MICA_NVML_FRONT_H", "GUARD").replace("NVML_", "MICA_NVML_"))
    text = text.replace('"../include/region.h"', '"region.h"')
    checks = [f'_Static_assert(sizeof(mica_{a}) == sizeof({b}), "{a}");' for a, b in pairs.items()]
    source = tmp_path / "sizes.c"
    source.write_text("#include <nvml.h>\n" + text + "\n".join(checks) + "\nint main(void) { return 0; }\n")
    shim.compile(str(source), f"-I{headers}", name="sizes")


@pytest.mark.parametrize("family", ["linear", "managed", "pitched", "stream_ordered", "virtual", "array", "graph"])
def test_a_linked_program_gets_its_cap_of_every_family(cards, headers, family):
    program = cards.shim.compile("headers/linked.c", f"-I{headers}", str(cards.shim.driver), name="linked")
    done = cards.run(program, family, "600", env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert done.stdout.split() == ["0", "2", "1024", "424"], done.stderr
    assert cards.run(program, family, "600", env=cards.env()).stdout.split()[:2] == ["0", "0"]


@pytest.mark.parametrize("flags", [0, 1, 2])
@pytest.mark.parametrize("version", [11030, 12000, 12080, 13000])
def test_a_program_that_looks_everything_up_is_limited_at_every_version_and_stream_form(cards, headers, version, flags):
    program = cards.shim.compile("headers/typedefs.c", f"-I{headers}", "-ldl", name="typedefs")
    done = cards.run(program, str(version), str(flags), env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert done.stdout.split() == ["2", "0", "0"], (done.returncode, done.stderr)
    assert cards.run(program, str(version), str(flags), env=cards.env()).stdout.split() == ["0", "0", "0"]


def smi(cards, headers, **extra):
    program = cards.shim.compile("headers/smi.c", f"-I{headers}", str(cards.shim.front), name="smi")
    env = cards.env(managed=True) | {"LD_PRELOAD": str(cards.shim.front)} | extra
    done = cards.run(program, env=env)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return json.loads(done.stdout)


def test_nvml_shows_the_slice_and_the_containers_own_processes_in_every_form(cards, headers):
    cards.limits(memory=4 * GIB, cores=50)
    stranger = cards.start(cards.shim.probe, "--alloc", str(7 * GIB), "--hold", "60", env=cards.env())
    stranger.stdout.readline()
    own = cards.start(cards.shim.probe, "--alloc", str(GIB), "--hold", "60", env=cards.env(managed=True))
    own.stdout.readline()
    found = smi(cards, headers)
    assert (found["total"], found["used"], found["free"]) == ([4 * GIB] * 2, [GIB] * 2, [3 * GIB] * 2)
    assert found["processes"] == [[own.pid, GIB] * 4]
    assert (found["counts"], found["size"], found["program"]) == ([1, 1, 1, 1, 0, 1], 7, "gpu-probe")
    assert found["bar"] > 0
    assert (found["mode"], found["accounts"], found["history"]) == (4, 3, 3)


def test_nvml_shows_the_containers_share_of_the_time(cards, headers):
    cards.limits(memory=4 * GIB, cores=30)
    spin = ("--spin", "60", "--kernel-us", "1000")
    stranger = cards.start(cards.shim.probe, *spin, env=cards.env())
    own = cards.start(cards.shim.probe, *spin, "--alloc", str(GIB), env=cards.env(managed=True))
    looks = [smi(cards, headers) for _ in range(12)]
    busy = [look["gpu"] for look in looks]
    assert max(busy) > 0 and max(busy) <= 60, busy
    assert {row[0] for look in looks for row in look["busy"]} == {own.pid}
    assert all(row[0] == row[2] and row[1] == row[3] for look in looks for row in look["busy"])
    assert stranger.poll() is None


def test_a_card_that_is_not_in_the_limits_has_nothing(cards, headers):
    path = cards.limits(memory=4 * GIB)
    path.write_text(path.read_text().replace(cards.uuid(0), cards.uuid(5)))
    found = smi(cards, headers)
    assert (found["total"], found["used"], found["counts"]) == ([0, 0], [0, 0], [0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("text", ["", "version=1\n", "version=9\ngpus=0\n", "\0\0\0"])
def test_limits_that_cannot_be_read_show_nothing_rather_than_everything(cards, headers, text):
    cards.limits().write_text(text)
    found = smi(cards, headers)
    assert (found["total"], found["counts"][0]) == ([0, 0], 0)


def test_a_region_of_garbage_does_no_harm(cards, headers):
    cards.limits(memory=4 * GIB)
    cards.region().write_bytes(bytes(range(256)) * (cards.region().stat().st_size // 256))
    found = smi(cards, headers)
    assert (found["total"], found["used"]) == ([4 * GIB] * 2, [0, 0])


def test_report_mode_and_no_limits_at_all_leave_nvml_alone(cards, headers):
    cards.limits(memory=4 * GIB, mode="report")
    assert smi(cards, headers)["total"] == [80 * GIB] * 2
    cards.limits()
    (cards.directory / "limits").unlink()
    alone = smi(cards, headers, MICA_LIMITS_FILE="", MICA_MEMORY="6GiB")
    assert alone["total"] == [6 * GIB] * 2
    assert smi(cards, headers, MICA_LIMITS_FILE="")["total"] == [80 * GIB] * 2


def test_names_that_are_not_answered_here_reach_the_real_library(cards, headers):
    cards.limits(memory=4 * GIB)
    code = """
nvml = ctypes.CDLL("libnvidia-ml.so.1")
text = ctypes.create_string_buffer(96)
assert nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, 96) == 0
answer(text.value.decode(), nvml.nvmlDeviceGetFanSpeed(None, None), hasattr(nvml, "nvmlNotThere"))
"""
    env = cards.env(managed=True) | {"LD_PRELOAD": str(cards.shim.front)}
    assert cards.python(code, env=env) == [["580.95.05", 13, False]]


def test_the_front_library_mounted_over_nvml_is_not_taken_for_it(cards, headers, tmp_path):
    cards.limits(memory=4 * GIB)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libnvidia-ml.so.1").write_bytes(cards.shim.front.read_bytes())
    found = smi(cards, headers, LD_PRELOAD="", LD_LIBRARY_PATH=f"{tmp_path / 'lib'}:{cards.shim.root / 'sim'}")
    assert found["total"] == [4 * GIB] * 2
