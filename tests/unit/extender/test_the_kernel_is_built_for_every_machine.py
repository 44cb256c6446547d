"""The placement kernel for the machines that wheels are made for, from one set of sources, by the compiler in the build."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).parents[3]
BUILDER = ROOT / "build_native.py"
NEWEST_GLIBC = (2, 17)


def functions(library: Path) -> set[str]:
    """Names that the library gives out."""
    with library.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym").iter_symbols()
        return {s.name for s in symbols if s.name and s["st_shndx"] != "SHN_UNDEF"}


def glibc_versions(library: Path) -> set[tuple[int, ...]]:
    with library.open("rb") as file:
        needed = ELFFile(file).get_section_by_name(".gnu.version_r")
        names = [aux.name for _, auxes in needed.iter_versions() for aux in auxes] if needed else []
    return {tuple(int(part) for part in name.removeprefix("GLIBC_").split(".")) for name in names if name.startswith("GLIBC_")}


@pytest.mark.timeout(300)
def test_one_set_of_sources_makes_a_library_for_x86_64_and_for_aarch64(tmp_path: Path) -> None:
    made = {machine: tmp_path / f"{machine}.so" for machine in ("x86_64", "aarch64")}
    for machine, library in made.items():
        subprocess.run([sys.executable, str(BUILDER), "placement", "--machine", machine, "--out", str(library)], check=True)
    with made["x86_64"].open("rb") as intel, made["aarch64"].open("rb") as arm:
        assert [ELFFile(intel)["e_machine"], ELFFile(arm)["e_machine"]] == ["EM_X86_64", "EM_AARCH64"]
    assert functions(made["x86_64"]) == functions(made["aarch64"]) >= {"mica_evaluate", "mica_score", "mica_kernel_digest"}
    assert max(glibc_versions(made["x86_64"]) | glibc_versions(made["aarch64"]), default=NEWEST_GLIBC) <= NEWEST_GLIBC
