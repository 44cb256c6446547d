"""Commands shown to the user as they would type them, run for real, with their output below."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mica_box.errors import BoxError

_POLL_S = 0.5


@dataclass(frozen=True)
class Shell:
    """A shell with the environment of a box."""

    environment: Mapping[str, str]

    def headline(self, text: str) -> None:
        """Start of a chapter."""
        print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)

    def say(self, text: str) -> None:
        """A sentence between commands."""
        print(text, flush=True)

    def show(self, command: str, *, expect_failure: bool = False) -> str:
        """Print and run a command, its output below; returns stdout and stderr together.

        Raises BoxError when it ends otherwise than expected.
        """
        print(f"$ {command}", flush=True)
        done = self._run(command)
        output = (done.stdout + done.stderr).rstrip()
        if output:
            print(output, flush=True)
        if (done.returncode != 0) is not expect_failure:
            expected = "to be refused" if expect_failure else "to succeed"
            raise BoxError(f"the demo expected this command {expected}: {command}\n{output}")
        return output

    def quiet(self, command: str) -> str:
        """Output of a command that the user need not see; empty when it fails."""
        done = self._run(command)
        return done.stdout.strip() if done.returncode == 0 else ""

    def wait(self, what: str, ready: Callable[[], bool], *, timeout_s: float = 120.0) -> None:
        """Wait for something, with a word about it when it takes longer than two seconds. Raises BoxError after `timeout_s`."""
        start = time.monotonic()
        told = False
        while not ready():
            waited = time.monotonic() - start
            if waited > timeout_s:
                raise BoxError(
                    f"{what}: not after {timeout_s:.0f} s", do="look at `kubectl get pods -A` and the logs, then run again"
                )
            if waited > 2 and not told:
                print(f"  … waiting: {what}", flush=True)
                told = True
            time.sleep(_POLL_S)

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
