"""11.1: what the limiter assumes of a driver, checked on the one that is here."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from benchmarks._report import Figure, at_most
from benchmarks.gpu.bench import Bench, Work, bench, card_used
from benchmarks.gpu.options import ROOT, Options

HOOKS: Final = ROOT / "vgpu_shim" / "hooks" / "hooks.def"
MIB: Final = 1 << 20


def hooked_names() -> list[str]:
    """Base names of the hooked functions, without version and stream form."""
    found = re.findall(r"^H\((\w+),", HOOKS.read_text(), re.MULTILINE)
    return sorted({re.sub(r"(_v\d+)?(_pts[zds])?$", "", re.sub(r"_pt[sd]s?z?$", "", name)) for name in found})


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part."""
    names = hooked_names()
    with bench(options) as made:
        found = made.ask("facts", "--names", json.dumps(names))
        before = card_used(made)
        calls = made.ask("calls", "--batches", "20")
        after = card_used(made)
        context = _context_bytes(made)
    where = options.source
    return [
        Figure("driver version", found["version"], "cuDriverGetVersion", where),
        Figure(
            "pointers that cuGetProcAddress and dlsym disagree on",
            len(found["differ"]),
            "names × flags",
            f"{where}; {len(names)} names, both stream flags: {found['differ'][:5]}",
            goal=at_most(0),
        ),
        Figure("hooked names that this driver lacks", len(found["absent"]), "names", f"{where}: {found['absent'][:8]}"),
        Figure("event resolution", found["resolution_ns"], "ns", f"{where}; smallest step between intervals of 1 to 40 µs"),
        Figure("multiprocessors", found["sms"], "", where),
        Figure("memory of a bare context", context / MIB, "MiB", f"{where}; NVML's used memory with and without one"),
        Figure(
            "memory left behind by a program", (after - before) / MIB, "MiB", f"{where}; NVML, after it ended", goal=at_most(1)
        ),
        *(Figure(f"{kind}, bare", ns, "ns", f"{where}; median of batches of 200, through ctypes") for kind, ns in calls.items()),
    ]


def _context_bytes(made: Bench) -> int:
    before = card_used(made)
    with made.running([(Work("idle", 1000), made.bare())], seconds=0):
        return card_used(made) - before
