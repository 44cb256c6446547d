"""A trace or snapshot with a bad row is refused with file, line and column."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mica_extender.simulator.model import BadInput
from mica_extender.simulator.openb import NODES, read_trace
from mica_extender.simulator.snapshot import read_snapshot

NODE = "n0,32000,65536,2,T4"
PODS = "openb_pod_list_default.csv"


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ("p1,x,1,1,500,", "line 3, column 2 (cpu_milli)"),
        ("p1,-4,1,1,500,", "line 3, column 2 (cpu_milli)"),
        ("p1,4,1.5,1,500,", "line 3, column 3 (memory_mib)"),
        ("p1,4,1,17,1000,", "line 3, column 4 (num_gpu)"),
        ("p1,4,1,1,1001,", "line 3, column 5 (gpu_milli)"),
        ("p1,4,1,1,0,", "line 3, column 5 (gpu_milli)"),
        ("p1,4,1,2,500,", "line 3, column 5 (gpu_milli)"),
        ("p1,4,1,1,500,H100", "line 3, column 6 (gpu_spec)"),
        (",4,1,1,500,", "line 3, column 1 (name)"),
        ("p0,4,1,1,500,", "line 3, column 1 (name)"),
        ("p1,4,1,1", "line 3, column 5"),
        ("p1,4,1,1,500,,7", "line 3, column 7"),
        ("p1,١,1,1,500,", "line 3, column 2 (cpu_milli)"),
    ],
)
def test_a_bad_pod_row_is_named(write_trace: Callable[..., Path], row: str, place: str) -> None:
    folder = write_trace(nodes=[NODE], pods=["p0,4,1,1,500,T4", row])
    with pytest.raises(BadInput, match=re.escape(f"{folder / PODS}, {place}")):
        read_trace(folder)


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ("n1,32000,1,0,T4", "line 3, column 4 (gpu)"),
        ("n1,32000,1,2,", "line 3, column 5 (model)"),
        (NODE, "line 3, column 1 (sn)"),
    ],
)
def test_a_bad_node_row_is_named(write_trace: Callable[..., Path], row: str, place: str) -> None:
    folder = write_trace(nodes=[NODE, row])
    with pytest.raises(BadInput, match=re.escape(f"{folder / NODES}, {place}")):
        read_trace(folder)


def test_a_missing_column_is_named(write_trace: Callable[..., Path]) -> None:
    folder = write_trace()
    (folder / PODS).write_text("name,cpu_milli,memory_mib,num_gpu\np0,1,1,0\n")
    with pytest.raises(BadInput, match="line 1: there is no column gpu_milli"):
        read_trace(folder)


def test_a_list_that_is_not_there_is_named(write_trace: Callable[..., Path]) -> None:
    with pytest.raises(BadInput, match=re.escape("openb_pod_list_other.csv: No such file")):
        read_trace(write_trace(), "other")


def test_an_empty_trace_is_refused(write_trace: Callable[..., Path]) -> None:
    with pytest.raises(BadInput, match="no nodes"):
        read_trace(write_trace(nodes=[]))
    with pytest.raises(BadInput, match="no pod in it asks for a GPU"):
        read_trace(write_trace(pods=[]))


def vgpu_node(**spec: Any) -> dict[str, Any]:
    gpu = {"uuid": "GPU-0", "index": 0, "model": "T4", "memoryMiB": 16384, "health": "Healthy"}
    return {
        "kind": "VGPUNode",
        "metadata": {"name": "n0"},
        "spec": {"pool": "default", "maxSlicesPerGPU": 10, "gpus": [gpu], **spec},
    }


def test_a_bad_field_of_a_snapshot_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    path.write_text(json.dumps({"kind": "List", "items": [vgpu_node(maxSlicesPerGPU="ten")]}, indent=1))
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "ten" in text)
    with pytest.raises(BadInput, match=re.escape(f"{path}, line {line}, column ")):
        read_snapshot([path])


def test_broken_json_and_yaml_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"kind": "List",\n "items": [}')
    with pytest.raises(BadInput, match=re.escape("a.json, line 2, column 12: it is not JSON")):
        read_snapshot([tmp_path / "a.json"])
    (tmp_path / "a.yaml").write_text("kind: List\nitems: [\n")
    with pytest.raises(BadInput, match=re.escape("a.yaml, line 3, column 1: it is not YAML")):
        read_snapshot([tmp_path / "a.yaml"])


def test_an_object_that_is_there_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    path.write_text(json.dumps([vgpu_node(), vgpu_node()], indent=1))
    with pytest.raises(BadInput, match="twice"):
        read_snapshot([path])


def test_a_snapshot_without_nodes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("kind: List\nitems: []\n")
    with pytest.raises(BadInput, match="no VGPUNode"):
        read_snapshot([path])
