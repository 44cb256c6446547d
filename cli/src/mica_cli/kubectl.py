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
    result = _kubectl(["get", "--raw", path], run)
    if result.code == 0:
        return result.output
    reason = _reason(result)
    if "could not find the requested resource" in reason:
        raise ClusterError("this cluster does not know mica.dev objects; install the chart: helm install mica charts/mica")
    raise _unreadable(reason)


def read_pod(name: str, namespace: str | None, *, run: Run = run_command) -> str:
    """JSON of a pod, in kubectl's current namespace when none is given. Raises ClusterError."""
    where = ["-n", namespace] if namespace else []
    result = _kubectl(["get", "pod", name, *where, "-o", "json"], run)
    if result.code == 0:
        return result.output
    reason = _reason(result)
    if "NotFound" in reason:
        raise ClusterError(f"there is no pod {name} in {f'namespace {namespace}' if namespace else 'the current namespace'}")
    raise _unreadable(reason)


def read_through_proxy(path: str, *, run: Run = run_command) -> str:
    """Body of a GET on one of our services through the API server's proxy, with the caller's rights. Raises ClusterError."""
    result = _kubectl(["get", "--raw", path], run)
    if result.code == 0:
        return result.output
    reason = _reason(result)
    service = path.partition("/proxy/")[0]
    if "Forbidden" in reason:
        raise ClusterError(f"you may not get {service}/proxy: {reason}; ask for the Role mica-explain of that namespace")
    if "ServiceUnavailable" in reason:
        raise ClusterError(f"no replica of the scheduler behind {service} is ready; look at its pods")
    if "NotFound" in reason:
        raise ClusterError(
            f"not found: either {service} does not exist (is Mica in another namespace? use --system-namespace), "
            "or its replicas do not know the pod yet; try again"
        )
    raise _unreadable(reason)


def _kubectl(arguments: Sequence[str], run: Run) -> Result:
    try:
        return run(["kubectl", *arguments])
    except FileNotFoundError as error:
        raise ClusterError("kubectl is not on the PATH; install it, or use the one of `make demo`") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"the cluster did not answer within {_TIMEOUT_S} s; check `kubectl cluster-info`") from error


def _reason(result: Result) -> str:
    return result.errors.strip().splitlines()[-1] if result.errors.strip() else f"kubectl ended with {result.code}"


def _unreadable(reason: str) -> ClusterError:
    return ClusterError(f"the cluster cannot be read: {reason}. Check $KUBECONFIG and `kubectl config current-context`")
