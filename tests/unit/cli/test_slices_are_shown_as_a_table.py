"""`mica slices`: what the table says, and what is said when there is no cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from mica_cli.kubectl import ClusterError, Result, read_api
from mica_cli.slices import UnreadableNodes, parse_nodes, slices_table


def node(name: str, *, slices: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    gpus = [
        {"uuid": "GPU-b", "index": 1, "model": "H100", "memoryMiB": 81920, "health": "Unhealthy"},
        {"uuid": "GPU-a", "index": 0, "model": "H100", "memoryMiB": 81920},
    ]
    spec = {"pool": "default", "maxSlicesPerGPU": 10, "driver": {"version": "580"}, "gpus": gpus}
    return {"metadata": {"name": name}, "spec": spec, **({"status": {"slices": slices}} if slices is not None else {})}


def held(pod: str, *gpus: tuple[str, int, int]) -> dict[str, Any]:
    shares = [{"uuid": uuid, "memoryMiB": memory, "cores": cores} for uuid, memory, cores in gpus]
    return {"podUID": pod, "namespace": "team", "pod": pod, "container": "main", "gpus": shares}


def table(*nodes: dict[str, Any]) -> list[list[str]]:
    lines = slices_table(parse_nodes(json.dumps({"kind": "VGPUNodeList", "items": nodes})))
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in lines]


def test_cards_are_listed_with_what_is_taken() -> None:
    rows = table(node("n1", slices=[held("two", ("GPU-a", 1536, 0)), held("one", ("GPU-a", 3072, 20), ("GPU-b", 1024, 5))]))
    assert rows[0] == ["NODE", "GPU", "MODEL", "POOL", "HEALTH", "CORES", "MEMORY", "COMPUTE", "HOLDER"]
    assert rows[1] == ["n1", "0", "H100", "default", "Healthy", "20/100", "4608Mi/80Gi", "2/10 slices"]
    assert rows[2] == ["20", "3Gi", "team/one (main)"]
    assert rows[3] == ["no cap", "1536Mi", "team/two (main)"]
    assert rows[4][:6] == ["n1", "1", "H100", "default", "Unhealthy", "5/100"]
    assert rows[5] == ["5", "1Gi", "team/one (main)"]


def test_a_slice_shows_what_decides_about_its_time() -> None:
    def choosing(pod: str, cores: int, **compute: object) -> dict[str, Any]:
        usual = {"policy": "Strict", "priority": "Normal", "weight": 100}
        return held(pod, ("GPU-a", 1024, cores)) | {"compute": usual | compute}

    slices = [
        choosing("a", 20),
        choosing("b", 20, policy="Conserving", priority="Low"),
        choosing("c", 0, weight=300, priority="High"),
        choosing("d", 100),
    ]
    rows = table(node("n1", slices=slices))
    assert [row[2] for row in rows[2:6]] == ["strict", "conserving, low", "weight 300, high", "alone"]


def test_overcommit_and_exclusive_cards_show_what_may_be_given_out() -> None:
    shared = node("n1")
    shared["spec"] |= {"memoryOvercommitPercent": 150, "coresOvercommitPercent": 200}
    shared["spec"]["gpus"][0]["mode"] = "Exclusive"
    rows = table(shared)
    assert rows[1][5:] == ["0/200", "0Gi/120Gi", "0/10 slices"]
    assert rows[2][5:] == ["0/100", "0Gi/80Gi", "0/1 slice"]


def test_nodes_are_in_order_and_need_no_status() -> None:
    rows = table(node("b"), node("a"))
    assert [row[0] for row in rows[1:]] == ["a", "a", "b", "b"]


def test_a_list_of_another_version_is_refused_in_words() -> None:
    with pytest.raises(UnreadableNodes, match=r"items\.0\.spec: Field required"):
        parse_nodes('{"items": [{"metadata": {"name": "x"}}]}')


def answering(code: int, *, output: str = "", errors: str = "") -> Any:
    def run(command: Sequence[str]) -> Result:
        assert command == ["kubectl", "get", "--raw", "/path"]
        return Result(code, output, errors)

    return run


def test_the_answer_of_the_api_server_is_returned() -> None:
    assert read_api("/path", run=answering(0, output="{}")) == "{}"


UNKNOWN_KIND = "Error from server (NotFound): the server could not find the requested resource\n"
NOT_LISTENING = "The connection to the server localhost:8080 was refused - did you specify the right host or port?\n"


def without_kubectl(command: Sequence[str]) -> Result:
    raise FileNotFoundError(command[0])


def without_answer(command: Sequence[str]) -> Result:
    raise subprocess.TimeoutExpired(command, 30)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (without_kubectl, "kubectl is not on the PATH"),
        (without_answer, "did not answer"),
        (
            answering(1, errors="Error from server (NotFound): the server could not find the requested resource\n"),
            "install the chart",
        ),
        (
            answering(1, errors="The connection to the server localhost:8080 was refused - is it right?\n"),
            r"refused.*\$KUBECONFIG",
        ),
        (answering(7), "ended with 7"),
    ],
    ids=["no kubectl", "silence", "no chart", "refused", "no words"],
)
def test_what_is_missing_is_said(run: Any, words: str) -> None:
    with pytest.raises(ClusterError, match=words):
        read_api("/path", run=run)
