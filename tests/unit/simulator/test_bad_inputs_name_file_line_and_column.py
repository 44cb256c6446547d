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
        (f"p1,{'9' * 5000},1,1,500,", "line 3, column 2 (cpu_milli)"),
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


def test_a_column_that_is_there_twice_is_named(write_trace: Callable[..., Path]) -> None:
    folder = write_trace()
    (folder / PODS).write_text("name,cpu_milli,name,memory_mib,num_gpu,gpu_milli\np0,1,p1,1,0,0\n")
    with pytest.raises(BadInput, match="line 1, column 3: name is a column already"):
        read_trace(folder)


def test_bytes_that_are_no_text_are_named(write_trace: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_trace()
    (folder / PODS).write_bytes(b"name,cpu_milli,memory_mib,num_gpu,gpu_milli\np0,1,1,1,5\xff0\n")
    with pytest.raises(BadInput, match=re.escape(f"{folder / PODS}, line 2, character 11: it is not UTF-8 text")):
        read_trace(folder)
    (tmp_path / "x.json").write_bytes(b'{"kind": "List",\n "it\xc3\xa9ms": [\xff]}')
    with pytest.raises(BadInput, match="line 2, character 12: it is not UTF-8 text"):
        read_snapshot([tmp_path / "x.json"])


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


@pytest.mark.parametrize(
    ("changed", "text", "words"),
    [
        ({"maxSlicesPerGPU": -5}, "-5", "Expected `int` >= 1"),
        ({"maxSlicesPerGPU": 123454321}, '"VGPUNode"', "it is no JSON object"),
        ({"memoryOvercommitPercent": 10**18}, "1000000000000000000", "Expected `int` <= 10000"),
        ({"gpus": [{"uuid": "GPU-0", "index": 0, "model": "T4", "memoryMiB": -1}]}, "-1", "Expected `int` >= 1"),
        (
            {"gpus": [{"uuid": "GPU-0", "index": 0, "model": "T4", "memoryMiB": 2**62}]},
            str(2**62),
            "Expected `int` <= 2147483648",
        ),
    ],
    ids=["no slices", "an endless number", "overcommit", "less than no memory", "more memory than there is"],
)
def test_an_amount_that_no_card_has_is_named(tmp_path: Path, changed: dict[str, Any], text: str, words: str) -> None:
    path = tmp_path / "nodes.json"
    path.write_text(
        json.dumps({"items": [{"kind": "VGPUNode", **vgpu_node(**changed)}]}, indent=1).replace("123454321", "9" * 5000)
    )
    # Of the object as a whole the line on which it begins, of a value its own.
    line = next(n - text.startswith('"') for n, written in enumerate(path.read_text().splitlines(), 1) if text in written)
    with pytest.raises(BadInput, match=re.escape(f"{path}, line {line}, column ") + ".*" + re.escape(words)):
        read_snapshot([path])


def test_what_json_can_say_and_yaml_cannot_is_named_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "smile.json"
    body = vgpu_node(maxSlicesPerGPU="ten")
    body["metadata"]["annotations"] = {"said": "\N{GRINNING FACE}"}
    path.write_text(json.dumps([body], indent=1))
    assert "ud83d" in path.read_text(), "a pair of surrogates, which YAML does not know"
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "ten" in text)
    with pytest.raises(BadInput, match=f"line {line}, column "):
        read_snapshot([path])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("deep.json", "[" * 100_000, "it cannot be read: maximum recursion depth"),
        ("half.json", '[{"kind": "VGPUNode", "metadata": {"name": "\\ud800"}, "spec": {}}]', "line 1, column 2 (VGPUNode"),
        (
            "key.yaml",
            "kind: VGPUNode\nmetadata: {name: n, labels: {2024-01-01: x}}\n",
            "line 1, column 1 (VGPUNode n): it is no JSON",
        ),
        ("circle.yaml", "kind: VGPUNode\nmetadata: &m {name: n, x: *m}\n", "line 1, column 1 (VGPUNode n): it is no JSON object"),
        ("items.json", '{"kind": "List",\n "items": "x"}', "line 1, column 1: it is neither an object nor a list of objects"),
        ("word.yaml", "kind: List\nitems: []\n---\nhello\n", "line 4, column 1: it is neither an object nor a list of objects"),
    ],
)
def test_whatever_a_file_holds_is_refused_in_words(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(BadInput, match=re.escape(words)) as refused:
        read_snapshot([path])
    assert str(refused.value).encode().startswith(str(path).encode())


def test_labels_that_are_none_make_no_slice_pod(tmp_path: Path) -> None:
    container = {"name": "m", "resources": {"limits": {"mica.dev/vgpu-number": "x"}}}
    pod = {"kind": "Pod", "metadata": {"name": "p", "labels": ["x"]}, "spec": {"containers": [container]}}
    path = tmp_path / "pods.json"
    path.write_text(json.dumps([vgpu_node(), pod]))
    assert read_snapshot([path]).waiting == ()


def vgpu_pool() -> dict[str, Any]:
    return {"kind": "VGPUPool", "metadata": {"name": "default"}, "spec": {}}


@pytest.mark.parametrize(
    ("objects", "last", "words"),
    [
        ([vgpu_node(), vgpu_node()], '"name"', "(VGPUNode n0): it is in the snapshot twice"),
        ([vgpu_node(), vgpu_pool(), vgpu_pool()], '"name"', "(VGPUPool default): it is in the snapshot twice"),
        (
            [vgpu_node(), {**vgpu_node(), "metadata": {"name": "n1"}}],
            '"gpus"',
            "(VGPUNode n1): GPU GPU-0 is in the snapshot twice",
        ),
    ],
)
def test_an_object_that_is_there_twice_is_named(tmp_path: Path, objects: list[Any], last: str, words: str) -> None:
    path = tmp_path / "twice.json"
    path.write_text(json.dumps(objects, indent=1))
    line = max(n for n, text in enumerate(path.read_text().splitlines(), 1) if last in text)
    with pytest.raises(BadInput, match=rf"line {line}, column \d+ {re.escape(words)}"):
        read_snapshot([path])


def test_a_snapshot_without_nodes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("kind: List\nitems: []\n")
    with pytest.raises(BadInput, match="no VGPUNode"):
        read_snapshot([path])
