"""What the binaries need and show: glibc 2.17, no constructors, every driver name, nothing else."""

import filecmp
import re
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

ROOT = Path(__file__).parents[3] / "vgpu_shim"
BINARIES = ["library", "front", "driver", "nvml", "probe", "sim_state", "monitor"]


def read(path):
    return ELFFile.load_from_path(str(path))


def exported(path):
    with read(path) as elf:
        symbols = elf.get_section_by_name(".dynsym").iter_symbols()
        return {s.name for s in symbols if s.name and s["st_shndx"] != "SHN_UNDEF"}


def names():
    return set(re.findall(r"^MICA_NAME\((\w+)", (ROOT / "gen" / "names.inc").read_text(), re.M))


def nvml_names():
    return set(re.findall(r"^MICA_NVML\((\w+)", (ROOT / "gen" / "nvml_names.inc").read_text(), re.M))


def soname_of(path):
    with read(path) as elf:
        return [t.soname for t in elf.get_section_by_name(".dynamic").iter_tags() if t.entry.d_tag == "DT_SONAME"]


def glibc_needed(path):
    needed = []
    with read(path) as elf:
        for section in elf.iter_sections():
            if isinstance(section, GNUVerNeedSection):
                needed += [aux.name for _, auxes in section.iter_versions() for aux in auxes]
    return needed


def hooks():
    return set(re.findall(r"^H\((\w+),", (ROOT / "hooks" / "hooks.def").read_text(), re.M))


@pytest.mark.parametrize("binary", BINARIES)
def test_nothing_newer_than_glibc_2_17_is_needed(shim, binary):
    needed = glibc_needed(getattr(shim, binary))
    versions = [tuple(map(int, n.removeprefix("GLIBC_").split("."))) for n in needed if n.startswith("GLIBC_")]
    assert versions
    assert max(versions) <= (2, 17)
    assert "GLIBC_PRIVATE" not in needed


@pytest.mark.parametrize("binary", ["library", "front", "driver", "nvml"])
def test_no_library_runs_code_of_ours_when_it_is_loaded(shim, binary):
    """The compiler's start file leaves an empty `_init` and `_fini`; nothing may be added to them."""
    with read(getattr(shim, binary)) as elf:
        tags = {t.entry.d_tag: t.entry.d_val for t in elf.get_section_by_name(".dynamic").iter_tags()}
        sizes = {name: elf.get_section_by_name(name)["sh_size"] for name in (".init", ".fini")}
    assert tags.get("DT_INIT_ARRAYSZ", 0) == 0
    assert tags.get("DT_FINI_ARRAYSZ", 0) == 0
    assert sizes[".init"] <= 24
    assert sizes[".fini"] <= 12


def test_the_limiter_has_the_drivers_soname_and_exports_every_driver_name_and_dlsym(shim):
    assert soname_of(shim.library) == ["libcuda.so.1"]
    assert exported(shim.library) == names() | {"dlsym"}


def test_the_library_in_front_of_nvml_has_its_soname_and_every_name(shim):
    assert soname_of(shim.front) == ["libnvidia-ml.so.1"]
    assert exported(shim.front) == nvml_names() | {"mica_nvml_front"}


@pytest.mark.exhaustive
def test_the_limiter_is_built_for_arm64_with_the_same_names_and_the_same_glibc(shim, tmp_path):
    """It can only be looked at: there is no such machine. RTLD_NEXT is passed on by a branch (br x9), not a call (blr x9)."""
    files = [tmp_path / "libmica.so", tmp_path / "libmica-nvml.so"]
    make = ["make", "-s", "-C", str(ROOT), "ARCH=aarch64", f"BUILD={tmp_path}", f"PYTHON={sys.executable}"]
    done = subprocess.run([*make, *map(str, files)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for arm, here in zip(files, (shim.library, shim.front), strict=True):
        with read(arm) as elf:
            assert elf.get_machine_arch() == "AArch64"
        assert exported(arm) == exported(here)
        assert soname_of(arm) == soname_of(here)
        assert set(glibc_needed(arm)) <= {"GLIBC_2.17"}
    with read(files[0]) as elf:
        (symbol,) = (s for s in elf.get_section_by_name(".dynsym").iter_symbols() if s.name == "dlsym")
        text = elf.get_section_by_name(".text")
        start = symbol["st_value"] - text["sh_addr"]
        code = text.data()[start : start + symbol["st_size"]]
    assert b"\x20\x01\x1f\xd6" in code
    assert b"\x20\x01\x3f\xd6" not in code


def test_every_name_of_the_simulated_driver_is_a_driver_name(shim):
    assert exported(shim.driver) <= names()
    assert all(name.startswith("nvml") for name in exported(shim.nvml))


def test_every_hook_is_a_known_name_and_every_version_and_stream_form_of_it_is_hooked_or_named_here():
    """A new form of a hooked function in newer headers shows here, not as a slice without a limit."""
    deliberately_passed = {
        "cuMemMapArrayAsync",  # maps memory that cuMemCreate charged
        "cuGetProcAddress_v2_ptsz",  # a name of the headers only; cuGetProcAddress_v2 is what drivers export
    }
    known = names()
    families = {re.sub(r"(MultiDevice)?(_v\d+)?(_pt[sd][sz])?$", "", h) for h in hooks()}
    forms = {n for n in known if re.sub(r"(MultiDevice)?(_v\d+)?(_pt[sd][sz])?$", "", n) in families}
    assert hooks() <= known
    assert forms - hooks() - deliberately_passed == set()


def test_rtld_next_is_passed_on_by_a_jump(shim):
    """A call would make glibc search after the limiter instead of after the caller: endless recursion in wrappers."""
    with read(shim.library) as elf:
        (symbol,) = (s for s in elf.get_section_by_name(".dynsym").iter_symbols() if s.name == "dlsym")
        text = elf.get_section_by_name(".text")
        start = symbol["st_value"] - text["sh_addr"]
        code = text.data()[start : start + symbol["st_size"]]
    assert b"\x41\xff\xe3" in code  # jmp *%r11
    assert b"\x41\xff\xd3" not in code  # call *%r11


def test_the_limiter_needs_libc_and_its_parts_only(shim):
    with read(shim.library) as elf:
        needed = {t.needed for t in elf.get_section_by_name(".dynamic").iter_tags() if t.entry.d_tag == "DT_NEEDED"}
    assert needed <= {"libc.so.6", "libdl.so.2", "libpthread.so.0", "ld-linux-x86-64.so.2"}


def test_the_limiter_never_ends_the_program(shim):
    with read(shim.library) as elf:
        symbols = elf.get_section_by_name(".dynsym").iter_symbols()
        undefined = {s.name for s in symbols if s["st_shndx"] == "SHN_UNDEF"}
    assert not undefined & {"exit", "_exit", "abort", "_Exit", "quick_exit", "kill", "raise", "signal", "sigaction", "umask"}


@pytest.mark.exhaustive
def test_two_builds_are_equal_to_the_byte(shim, tmp_path):
    done = subprocess.run(
        ["make", "-s", "-C", str(ROOT), f"BUILD={tmp_path}", f"PYTHON={sys.executable}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for path in (
        "libmica.so",
        "libmica-nvml.so",
        "gpu-monitor",
        "mica-arbiter",
        "sim/libcuda.so.1",
        "sim/libnvidia-ml.so.1",
        "tools/gpu-probe",
        "tools/sim-state",
    ):
        assert filecmp.cmp(tmp_path / path, shim.root / path, shallow=False), path
    assert str(tmp_path).encode() not in (tmp_path / "libmica.so").read_bytes()


def test_no_file_is_longer_than_400_lines():
    files = [p for p in ROOT.rglob("*") if p.suffix in {".c", ".h", ".S", ".py", ".def"}]
    assert files
    assert [p.name for p in files if len(p.read_text().splitlines()) > 400] == []
