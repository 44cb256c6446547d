"""The commands as a user types them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mica_cli.__main__ import app
from mica_cli.router import TUNING, left_out, router_environment
from mica_router.settings import RouterSettings

ROOT = Path(__file__).parents[3]


def mica(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_version_is_that_of_the_distribution() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert mica("version") == (0, f"{wanted}\n")


@pytest.mark.parametrize(
    "arguments", [["run", "--routes", "/nonexistent"], ["slices", "--unknown"], ["run", "--port", "0"], ["nothing"]]
)
def test_what_is_not_understood_is_refused(arguments: list[str]) -> None:
    assert mica(*arguments)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--config", "/nonexistent.yaml"], "/nonexistent.yaml does not exist; run mica init"),
        (["run", "--demo", "--config", "/nonexistent.yaml"], "give one of --routes, --config and --demo"),
    ],
)
def test_what_cannot_run_says_what_to_do(arguments: list[str], words: str) -> None:
    code, output = mica(*arguments)
    assert code == 1
    assert words in output


def test_the_port_of_the_api_is_not_that_of_metrics(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    file.write_text("{models: {default: m}, services: {conductor: {port: 8080}}}")
    code, output = mica("run", "--config", str(file))
    assert code == 1
    assert "give another one with --admin-port" in output


def test_flags_win_over_the_environment_and_the_rest_is_kept() -> None:
    present = {"MICA_PORT": "1", "MICA_LOG_LEVEL": "debug", "PATH": "/bin"}
    environment = router_environment(present, routes=Path("/r.yaml"), host="h", port=2, admin_port=3)
    assert environment == {
        "PATH": "/bin",
        "MICA_LOG_LEVEL": "debug",
        "MICA_ROUTES": "file",
        "MICA_ROUTES_FILE": "/r.yaml",
        "MICA_HOST": "h",
        "MICA_PORT": "2",
        "MICA_ADMIN_PORT": "3",
    }


def test_variables_of_other_programs_do_not_reach_the_router() -> None:
    present = {"MICA_CACHE": "/c", "MICA_KUBE_ASSETS": "/a", "MICA_KUBECONFIG": "/k", "MICA_RETRY_AFTER": "3", "HOME": "/h"}
    present["MICA_CONFIG"] = "/c.yaml"
    environment = router_environment(present, routes=Path("/r.yaml"), host="h", port=2, admin_port=3)
    assert environment.keys() & present.keys() == {"MICA_RETRY_AFTER", "HOME"}
    assert left_out(present) == ["MICA_CACHE", "MICA_KUBECONFIG", "MICA_KUBE_ASSETS"]


def test_every_setting_of_the_router_is_a_flag_or_passed_on() -> None:
    by_flags = {"MICA_ROUTES", "MICA_ROUTES_FILE", "MICA_HOST", "MICA_PORT", "MICA_ADMIN_PORT"}
    settings = {f"MICA_{name}".upper() for name in RouterSettings.model_fields}
    assert settings - {"MICA_KUBECONFIG"} == TUNING | by_flags


def test_slices_without_a_cluster_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mica_cli", "slices"],
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: kubectl is not on the PATH; install it, or use the one of `make demo`\n"
