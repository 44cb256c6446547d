"""``mica simulate`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from mica_api.request import ContainerRequest, PodRequest, canonical_resources, encode_request
from mica_cli.__main__ import app
from mica_extender.simulator.openb import NODES


def mica(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["simulate", *map(str, arguments), "--processes", "1"])
    return result.exit_code, result.output


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    folder = tmp_path / "trace"
    folder.mkdir()
    nodes = [f"n{at},64000,65536,4,T4" for at in range(4)]
    pods = [f"p{at},4000,1024,1,{(500, 300, 1000)[at % 3]}," for at in range(15)]
    (folder / NODES).write_text("\n".join(["sn,cpu_milli,memory_mib,gpu,model", *nodes, ""]))
    (folder / "openb_pod_list_default.csv").write_text(
        "\n".join(["name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec", *pods, ""])
    )
    return folder


def pod(name: str, node: str = "") -> dict[str, Any]:
    wanted = ContainerRequest("main", number=1, cores=30, memory_mib=4096)
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "labels": {"mica.dev/slice": "true"},
            "annotations": {"mica.dev/request": encode_request(PodRequest((wanted,)))},
        },
        "spec": {
            "schedulerName": "mica-scheduler",
            **({"nodeName": node} if node else {}),
            "containers": [
                {"name": "main", "resources": {"limits": {k: str(v) for k, v in canonical_resources(wanted).items()}}}
            ],
        },
        "status": {"phase": "Running" if node else "Pending"},
    }


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    gpus = [{"uuid": f"GPU-{at}", "index": at, "model": "T4", "memoryMiB": 16384, "health": "Healthy"} for at in range(2)]
    node = {"kind": "VGPUNode", "metadata": {"name": "n0"}, "spec": {"pool": "default", "maxSlicesPerGPU": 10, "gpus": gpus}}
    items = [node, *(pod(f"run-{at}", "n0") for at in range(2)), *(pod(f"wait-{at}") for at in range(2)), {"kind": "Node"}]
    path = tmp_path / "snapshot.json"
    path.write_text(json.dumps({"kind": "List", "items": items}))
    return path


def test_a_trace_gives_tables_log_picture_and_figures(trace: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("log", "plot", "json")}
    status, output = mica(
        *("--trace", trace, "--seeds", "2", "--policy", "fragmentation", "--policy", "random"),
        *(part for name, path in files.items() for part in (f"--{name}", path)),
    )
    assert status == 0
    assert "feasible but refused: 0 of" in output
    assert "what fragmentation saves" in output
    lines = [json.loads(line) for line in files["log"].read_text().splitlines()]
    figures = json.loads(files["json"].read_text())["replays"]
    assert [(one["policy"], one["seed"]) for one in figures] == [(p, s) for p in ("fragmentation", "random") for s in (42, 43)]
    assert len(lines) == sum(one["pods"] for one in figures)
    assert all(("failed" in line) != ("node" in line and len(line["cards"]) == 1) for line in lines)
    assert sum("failed" in line for line in lines) == sum(one["failed"] for one in figures)
    picture = ElementTree.fromstring(files["plot"].read_text())
    assert len(picture.findall("{http://www.w3.org/2000/svg}polyline")) == 2


def test_a_snapshot_is_placed_anew_or_goes_on(snapshot: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    status, output = mica("--snapshot", snapshot, "--seeds", "1", "--policy", "fragmentation", "--log", log)
    assert (status, len(log.read_text().splitlines())) == (0, 4)
    assert "not used: 1 Node" in output
    status, _ = mica("--snapshot", snapshot, "--seeds", "1", "--policy", "binpack", "--log", log, "--waiting-only")
    assert (status, [json.loads(line)["pod"] for line in log.read_text().splitlines()]) == (
        0,
        ["default/wait-0", "default/wait-1"],
    )


def test_a_bad_row_ends_the_command_with_its_place(trace: Path) -> None:
    path = trace / "openb_pod_list_default.csv"
    path.write_text(path.read_text() + "p99,4000,1024,1,many,\n")
    status, output = mica("--trace", trace)
    assert status == 1
    assert "line 17, column 5 (gpu_milli): 'many'" in output.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--snapshot", "SNAPSHOT", "--load", "1.3"), "--load is for --trace"),
        (("--snapshot", "SNAPSHOT", "--list", "cpu200"), "--list is for --trace"),
        (("--trace", "TRACE", "--waiting-only"), "--waiting-only is for --snapshot"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(arguments: tuple[str, ...], words: str, snapshot: Path, trace: Path) -> None:
    places = {"SNAPSHOT": str(snapshot), "TRACE": str(trace)}
    status, output = mica(*(places.get(argument, argument) for argument in arguments))
    assert status == 1
    assert words in output


@pytest.mark.parametrize(
    "arguments", [(), ("--trace", ".", "--snapshot", "x.json"), ("--policy", "best"), ("--trace", "/nonexistent")]
)
def test_what_cannot_be_simulated_is_refused(arguments: tuple[str, ...]) -> None:
    status, output = mica(*arguments)
    assert status == 1
    assert output.startswith("error: ")
