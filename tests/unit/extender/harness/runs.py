"""Many stories at once, in processes of their own, perhaps against another copy of the sources."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .faults import Hits, merged

HOME = Path(__file__).parents[1]
CHUNK = 250


@dataclass(frozen=True)
class Found:
    """Sum over all stories; ``problems`` by seed."""

    totals: Mapping[str, int]
    cpu_s: float
    problems: Mapping[str, list[str]]
    hits: Hits


def environment(sources: Sequence[Path] = ()) -> dict[str, str]:
    """Of a child that tells stories with these sources before the installed ones; the same hashes make the same stories."""
    path = [*map(str, sources), str(HOME), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONHASHSEED": "0"}


def told(first: int, last: int, *, processes: int, sources: Sequence[Path] = (), until_caught: bool = False) -> Found:
    """Tell the stories of these seeds."""
    bounds = [(start, min(start + CHUNK, last)) for start in range(first, last, CHUNK)]
    parts: list[Found] = []
    while bounds and not (until_caught and any(part.problems for part in parts)):
        batch, bounds = bounds[:processes], bounds[processes:]
        children = [_start(start, end, sources, until_caught) for start, end in batch]
        parts += [_result(child) for child in children]
    return Found(
        totals=sum((Counter(part.totals) for part in parts), Counter()),
        cpu_s=sum(part.cpu_s for part in parts),
        problems={seed: found for part in parts for seed, found in part.problems.items()},
        hits=merged(part.hits for part in parts),
    )


def _start(first: int, last: int, sources: Sequence[Path], until_caught: bool) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "harness", str(first), str(last), *(["--until-caught"] if until_caught else [])]
    return subprocess.Popen(words, env=environment(sources), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _result(child: subprocess.Popen[str]) -> Found:
    out, err = child.communicate()
    if child.returncode != 0:
        raise RuntimeError(f"the harness ended with {child.returncode}:\n{err[-3000:]}")
    raw = json.loads(out)
    hits: Hits = Counter({(a, f): n for a, f, n in raw["hits"]})
    return Found(raw["totals"], raw["cpu_s"], raw["problems"], hits)
