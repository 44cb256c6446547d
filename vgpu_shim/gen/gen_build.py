"""Derive the build's tables from the lists that are kept by hand.

usage: gen_build.py sim-entries NAMES_INC API_HEADER OUT      table of the simulated driver's functions
       gen_build.py sim-map NAMES_INC API_HEADER OUT          its version script
       gen_build.py sim-rename NAMES_INC API_HEADER OUT       names under which its functions are written
       gen_build.py sim-names NAMES_INC API_HEADER OUT        the names in that order
       gen_build.py sim-stubs NAMES_INC API_HEADER OUT        its entry points, numbered, in assembler macro form
       gen_build.py forwards NAMES_INC HOOKS_DEF OUT          names that libmica.so forwards untouched
       gen_build.py forwards-asm NAMES_INC HOOKS_DEF OUT      their trampolines, numbered
       gen_build.py hook-rows NAMES_INC HOOKS_DEF OUT         the hooks with name, version and stream form
       gen_build.py shim-map NAMES_INC HOOKS_DEF OUT          libmica.so's version script
       gen_build.py nvml-map NVML_NAMES_INC NVML_DEF OUT      the version script of the library in front of NVML; `forwards` and
                                                              `forwards-asm` work for its lists too
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

ROW = re.compile(r"^MICA_NAME\((\w+), (\w+), (\d+), (\d)\)", re.M)
NVML_ROW = re.compile(r"^MICA_NVML\((\w+)\)", re.M)
HOOK = re.compile(r"^(?:H\((\w+),|N\((\w+)\))", re.M)
PROTOTYPE = re.compile(r"^CUresult (cu\w+)\(", re.M)
# Declared for the limiter alone: hooked or called there, absent from the simulated driver.
NOT_SIMULATED = re.compile(
    r"cuLaunch$|cuLaunchGrid|cuMemAllocPitch$|cuCtxDetach|cuGLCtx|cuVDPAUCtx|cuGreenCtx|cuCtxFromGreenCtx|cuLaunchCooperativeKernelMultiDevice"
    r"|cuArrayCreate$|cuArray3DCreate$|cuCtxSynchronize_v2|cuGraphAddNode_v3|cuMemGet(Default)?MemPool|cuLibrary|cuCtxSetLimit|cuMemGetAllocationProp"
)

Row = tuple[str, str, int, int]


def names(path: Path) -> list[Row]:
    """Return (symbol, base, version, per-thread) of every driver function, or the functions of NVML in the same form."""
    text = path.read_text()
    return [(s, b, int(v), int(t)) for s, b, v, t in ROW.findall(text)] + [(s, s, 0, 0) for s in NVML_ROW.findall(text)]


def hooked_names(path: Path) -> set[str]:
    """Return the symbols that a .def file answers for."""
    return {driver or nvml for driver, nvml in HOOK.findall(path.read_text())}


def simulated(path: Path) -> set[str]:
    """Return the functions that the simulated driver has: the declared ones, less the limiter's own."""
    return {name for name in PROTOTYPE.findall(path.read_text()) if not NOT_SIMULATED.match(name)}


def forwarded(rows: list[Row], hooks: Path) -> list[str]:
    """Return the symbols that are not hooked."""
    hooked = hooked_names(hooks)
    if missing := hooked - {row[0] for row in rows}:
        raise SystemExit(f"hooks.def names unknown to names.inc: {sorted(missing)}")
    return [row[0] for row in rows if row[0] not in hooked]


def version_script(symbols: list[str]) -> str:
    """Return a version script that exports `symbols` and nothing else."""
    return "{\n  global:\n" + "".join(f"    {s};\n" for s in sorted(symbols)) + "  local: *;\n};\n"


def sim_entries(rows: list[Row], api: Path) -> str:
    """Return the lookup table rows of the simulated driver."""
    have = simulated(api)
    ordered = sorted((b, v, t, s) for s, b, v, t in rows if s in have)
    return "".join(f"MICA_ENTRY({s}, {b}, {v}, {t})\n" for b, v, t, s in ordered)


def sim_map(rows: list[Row], api: Path) -> str:
    """Return the simulated driver's version script."""
    del rows
    return version_script(sorted(simulated(api)))


def sim_rename(rows: list[Row], api: Path) -> str:
    """Return macros that give each function a private name, so that an entry point can stand before it."""
    del rows
    return "".join(f"#define {s} sim_do_{s}\n" for s in sorted(simulated(api)))


def sim_stubs(rows: list[Row], api: Path) -> str:
    """Return the entry points in assembler macro form; their numbers are places in the sorted list of names."""
    del rows
    return "".join(f"    entry {s}, {i}\n" for i, s in enumerate(sorted(simulated(api))))


def sim_names(rows: list[Row], api: Path) -> str:
    """Return the names of the entry points in the order of their numbers."""
    del rows
    return "".join(f'"{s}",\n' for s in sorted(simulated(api)))


def forwards(rows: list[Row], hooks: Path) -> str:
    """Return one MICA_FORWARD row per forwarded name."""
    return "".join(f"MICA_FORWARD({s})\n" for s in forwarded(rows, hooks))


def forwards_asm(rows: list[Row], hooks: Path) -> str:
    """Return the numbered trampolines in assembler macro form."""
    return "".join(f"    forward {s}, {i}\n" for i, s in enumerate(forwarded(rows, hooks)))


def hook_rows(rows: list[Row], hooks: Path) -> str:
    """Return one MICA_HOOK row per hooked symbol."""
    hooked = hooked_names(hooks)
    return "".join(f"MICA_HOOK({s}, {b}, {v}, {t})\n" for s, b, v, t in rows if s in hooked)


def shim_map(rows: list[Row], hooks: Path) -> str:
    """Return the limiter's version script: every driver name, and dlsym."""
    del hooks
    return version_script([row[0] for row in rows] + ["dlsym"])


def nvml_map(rows: list[Row], hooks: Path) -> str:
    """Return the version script of the library in front of NVML: every name, and the one that tells it from the real library."""
    del hooks
    return version_script([row[0] for row in rows] + ["mica_nvml_front"])


MODES: dict[str, Callable[[list[Row], Path], str]] = {
    "sim-entries": sim_entries,
    "sim-map": sim_map,
    "sim-rename": sim_rename,
    "sim-stubs": sim_stubs,
    "sim-names": sim_names,
    "forwards": forwards,
    "forwards-asm": forwards_asm,
    "hook-rows": hook_rows,
    "shim-map": shim_map,
    "nvml-map": nvml_map,
}


def main() -> None:
    """Write one table."""
    mode, names_inc, other, out = sys.argv[1:]
    Path(out).write_text(MODES[mode](names(Path(names_inc)), Path(other)))


if __name__ == "__main__":
    main()
