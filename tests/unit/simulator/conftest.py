"""Small traces written by the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mica_extender.simulator.openb import NODES

NODE_HEADER = "sn,cpu_milli,memory_mib,gpu,model"
POD_HEADER = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec"
WriteTrace = Callable[..., Path]


@pytest.fixture
def write_trace(tmp_path: Path) -> WriteTrace:
    """Writes a trace of two kinds of nodes and a few pods, or of the rows that are given, and returns its folder."""

    def write(*, nodes: Sequence[str] | None = None, pods: Sequence[str] | None = None) -> Path:
        made = [f"n{at},32000,65536,{2 + 2 * (at % 2)},{'T4' if at % 2 else 'G2'}" for at in range(12)]
        sizes = ((500, 1), (1000, 1), (190, 1), (810, 1), (1000, 2), (300, 1))
        asked = [f"p{at:03},{4000 + 500 * (at % 5)},4096,{sizes[at % 6][1]},{sizes[at % 6][0]}," for at in range(50)]
        (tmp_path / NODES).write_text("\n".join([NODE_HEADER, *(made if nodes is None else nodes)]) + "\n")
        (tmp_path / "openb_pod_list_default.csv").write_text("\n".join([POD_HEADER, *(asked if pods is None else pods)]) + "\n")
        return tmp_path

    return write
