"""Running other programs: output captured, failures turned into a BoxError that carries the end of what they said."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from mica_box.errors import BoxError

TAIL_LINES = 20

CONTAINED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "--")
"""In front of a command: its mounts are its own, and when it is interrupted all that it started ends with it."""


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """The last lines of `text`, indented for use below a message."""
    return "\n".join("    " + line for line in text.rstrip().splitlines()[-lines:])


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    timeout_s: float | None = None,
    do: str = "see the output above, mend the cause, and run the same command again",
) -> str:
    """Run to the end and return stdout. Raises BoxError (with the tail of stderr) on a status other than 0."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, env=env, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError as error:
        raise BoxError(f"{words[0]} is not installed", do=f"install {words[0]} and run again") from error
    except subprocess.TimeoutExpired as error:
        raise BoxError(f"{' '.join(words)} did not end within {timeout_s} s", do=do) from error
    if done.returncode != 0:
        said = tail(done.stderr or done.stdout)
        raise BoxError(f"{' '.join(words)} failed with status {done.returncode}:\n{said}", do=do)
    return done.stdout


def succeeds(argv: Sequence[str | Path]) -> bool:
    """Whether the command ends with status 0; its output is dropped."""
    quiet = subprocess.run([str(w) for w in argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return quiet.returncode == 0
