"""Reading from the cluster through kubectl, so that contexts, credentials and proxies are what the user has set up there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_TIMEOUT_S: Final = 30


class ClusterError(Exception):
    """The cluster cannot be read; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    output: str
    errors: str


Run = Callable[[Sequence[str]], Result]


def run_command(command: Sequence[str]) -> Result:
    """Run it and wait. Raises FileNotFoundError, subprocess.TimeoutExpired."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    return Result(done.returncode, done.stdout, done.stderr)


def read_api(path: str, *, run: Run = run_command) -> str:
    """Body of a GET on the API server. Raises ClusterError."""
    try:
        result = run(["kubectl", "get", "--raw", path])
    except FileNotFoundError as error:
        raise ClusterError("kubectl is not on the PATH; install it, or use the one of `make demo`") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"the cluster did not answer within {_TIMEOUT_S} s; check `kubectl cluster-info`") from error
    if result.code == 0:
        return result.output
    reason = result.errors.strip().splitlines()[-1] if result.errors.strip() else f"kubectl ended with {result.code}"
    if "could not find the requested resource" in reason:
        raise ClusterError("this cluster does not know mica.dev objects; install the chart: helm install mica charts/mica")
    raise ClusterError(f"the cluster cannot be read: {reason}. Check $KUBECONFIG and `kubectl config current-context`")
