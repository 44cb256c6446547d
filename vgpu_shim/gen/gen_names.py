"""Write `names.inc` and `nvml_names.inc`, the lists of every public entry point of the driver and of NVML, from their headers.

Run by a developer when a new toolkit appears; the build needs only the result. No header text is kept: a row is the symbol, the
name under which `cuGetProcAddress` knows it, the driver version that introduced it and whether it is the per-thread-stream form.

usage: gen_names.py INCLUDE_DIR > names.inc                (the `include` folder of the wheel nvidia-cuda-runtime)
       gen_names.py --nvml INCLUDE_DIR > nvml_names.inc    (of the wheel nvidia-nvml-dev)
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

TYPEDEF = re.compile(r"\bPFN_(cu[A-Z]\w*?)_v(\d+)(_pt[sd][sz])?\)")
DECLARED = re.compile(r"CUDAAPI\s+(cu[A-Z]\w*)\s*\(")
DEFINED = re.compile(r"^\s*#\s*define\s+cu[A-Z]\w*\s+(?:__CUDA_API_PT[SD][SZ]\()?(cu[A-Z]\w*)\)?\s*$", re.M)

NVML_DECLARED = re.compile(r"\bDECLDIR\s+(nvml[A-Z]\w*)\s*\(")
NVML_RENAMED = re.compile(r"^\s*#\s*define\s+(nvml[A-Z]\w*)\s+(nvml[A-Z]\w*)\s*$", re.M)


def nvml_names(include: Path) -> list[str]:
    """Return every function of NVML, first forms that the header renames to later ones among them."""
    text = (include / "nvml.h").read_text(errors="replace")
    declared = set(NVML_DECLARED.findall(text))
    return sorted(declared | {old for old, new in NVML_RENAMED.findall(text) if new in declared})


def rows(include: Path) -> list[tuple[str, str, int, int]]:
    """Return (symbol, base, version, per-thread), sorted; version 0 when the headers name no version."""
    text = "\n".join(p.read_text(errors="replace") for p in sorted(include.glob("cuda*.h")))
    plain: dict[str, set[int]] = defaultdict(set)
    typed: set[tuple[str, int, str]] = set()
    for base, version, suffix in TYPEDEF.findall(text):
        typed.add((base, int(version), suffix))
        if not suffix:
            plain[base].add(int(version))
    found: dict[str, tuple[str, str, int, int]] = {}
    for base, version, suffix in typed:
        rank = max(1, sum(1 for v in plain[base] if v <= version))
        symbol = f"{base}{f'_v{rank}' if rank > 1 else ''}{suffix}"
        found[symbol] = (symbol, base, version, int(bool(suffix)))
    for symbol in {*DECLARED.findall(text), *DEFINED.findall(text)}:
        if symbol.startswith("cuda"):
            continue
        found.setdefault(symbol, (symbol, re.sub(r"(_v\d+)?(_pt[sd][sz])?$", "", symbol), 0, 0))
    return sorted(found.values())


def main() -> None:
    """Print the list."""
    if sys.argv[1] == "--nvml":
        print("/* Written by gen_names.py. MICA_NVML(symbol) */")
        for symbol in nvml_names(Path(sys.argv[2])):
            print(f"MICA_NVML({symbol})")
        return
    print("/* Written by gen_names.py. MICA_NAME(symbol, base name, introduced in driver version, per-thread) */")
    for symbol, base, version, per_thread in rows(Path(sys.argv[1])):
        print(f"MICA_NAME({symbol}, {base}, {version}, {per_thread})")


if __name__ == "__main__":
    main()
