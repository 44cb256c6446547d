"""The lists of entry points against CUDA's and NVML's own headers: nothing that takes memory or launches is missed."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3] / "vgpu_shim"
# Words in the names of driver functions that can take memory of a card, give it work, or make what does.
SUSPECT = re.compile(
    r"Alloc|Create|Launch|Import|Load|Map|Register|Retain|Instantiate|Upload|Open|AddNode|MemPool"
    r"|BeginCapture|EndCapture|SetLimit|Restore|LinkComplete|ExecUpdate|AddMem"
)
SUSPECT_NVML = re.compile(r"Memory(?!Err)|Mem(Size|Limit)|Utili[sz]|Process|Sampl|Account|BAR1|ComputeMode$")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def headers() -> Path:
    """The folder of the headers."""
    found: Path = load(Path(__file__).parent / "cuda_headers.py").include_directory()
    return found


@pytest.fixture(scope="module")
def lists() -> ModuleType:
    """The generator of the lists."""
    return load(ROOT / "gen" / "gen_names.py")


def entries(name: str, letter: str) -> dict[str, str]:
    text = (ROOT / "hooks" / name).read_text()
    rows = re.findall(rf'^{letter}\((\w+)(?:, (?:"([^"]*)"|\w+))?\)$', text, re.M)
    assert len(rows) == len(dict(rows)), "a name twice"
    return dict(rows)


def test_the_list_of_driver_names_is_what_the_headers_say(headers, lists):
    written = re.findall(r"^MICA_NAME\((\w+), (\w+), (\d+), (\d)\)", (ROOT / "gen" / "names.inc").read_text(), re.M)
    found = [(symbol, base, str(version), str(per_thread)) for symbol, base, version, per_thread in lists.rows(headers)]
    assert sorted(written) == sorted(found)
    assert len(found) > 700


def test_every_driver_function_that_could_allocate_or_launch_is_hooked_or_passed_for_a_reason(headers, lists):
    hooked, passed = entries("hooks.def", "H"), entries("passed.def", "P")
    found = {symbol for symbol, *_ in lists.rows(headers)}
    assert sorted(n for n in found - hooked.keys() - passed.keys() if SUSPECT.search(n)) == []
    assert sorted(hooked.keys() & passed.keys()) == []
    assert sorted((hooked.keys() | passed.keys()) - found) == []
    assert all(len(reason) > 10 for reason in passed.values())


def test_the_list_of_nvml_names_is_what_the_header_says(headers, lists):
    written = re.findall(r"^MICA_NVML\((\w+)\)", (ROOT / "gen" / "nvml_names.inc").read_text(), re.M)
    assert written == lists.nvml_names(headers)
    assert len(written) > 400


def test_every_nvml_function_about_memory_processes_or_utilisation_shows_the_slice_or_passes_for_a_reason(headers, lists):
    hooked, passed = entries("nvml.def", "N"), entries("nvml.def", "P")
    found = set(lists.nvml_names(headers))
    assert sorted(n for n in found - hooked.keys() - passed.keys() if SUSPECT_NVML.search(n)) == []
    assert sorted(hooked.keys() & passed.keys()) == []
    assert sorted((hooked.keys() | passed.keys()) - found) == []


def test_a_new_form_of_a_hooked_function_would_be_noticed(headers, lists, tmp_path):
    """The check itself: a header with one more function fails it."""
    for header in headers.glob("cuda*.h"):
        (tmp_path / header.name).write_text(header.read_text(errors="replace"))
    with (tmp_path / "cudaTypedefs.h").open("a") as more:
        more.write("typedef CUresult (CUDAAPI *PFN_cuMemAlloc_v14000)(CUdeviceptr *at, size_t bytes);\n")
    hooked, passed = entries("hooks.def", "H"), entries("passed.def", "P")
    found = {symbol for symbol, *_ in lists.rows(tmp_path)}
    assert [n for n in found - hooked.keys() - passed.keys() if SUSPECT.search(n)] == ["cuMemAlloc_v3"]
