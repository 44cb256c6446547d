"""`python -m mica_demo`: what `make demo` runs."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from mica_box import binaries, box, host
from mica_box.cli import INTERRUPTED
from mica_box.errors import BoxError
from mica_box.images import catalogue
from mica_box.kwok import add_kwok_nodes
from mica_box.paths import Paths, paths_from
from mica_box.plan import Mode
from mica_box.progress import say, step
from mica_box.running import RunningBox
from mica_box.simulated import default_sim_config
from mica_box.versions import load_versions
from mica_demo.install import install
from mica_demo.shell import Shell
from mica_demo.story import PODS, tell

NAME = "mica-demo"
KWOK_NODES = 3


def _up(paths: Paths) -> None:
    start = time.monotonic()
    host.require_root()
    versions = load_versions(paths.hack / "versions.toml")
    programs = binaries.ensure(paths, versions)
    the_box = box.up(paths, NAME, programs, mode=Mode.FULL, sim_config=default_sim_config())
    running = RunningBox(the_box, catalogue.load(paths, versions, the_box))
    with step("installing Mica"):
        install(running)
    add_kwok_nodes(the_box, KWOK_NODES)
    shell = Shell(running.environment)
    shell.quiet(f"kubectl delete minf tiny; kubectl delete pods {' '.join(PODS)} --ignore-not-found --now")
    tell(running, shell, Path("build/demo"))
    say(f"✓ demo ({time.monotonic() - start:.0f} s)")


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    """Both signals end us in the same way, so that what was begun is undone."""
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Exit status: 0, 1 with a message, 2 for an argument (there are none), 130 when interrupted."""
    if arguments:
        print("usage: python -m mica_demo (to remove the demo: make demo-down)", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell ignores SIGINT for what it starts in the background
        signal.signal(number, _terminated)
    paths = paths_from(os.environ)
    os.chdir(paths.hack.parent)
    try:
        _up(paths)
    except BoxError as error:
        print(f"mica: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"mica: {error}\n  what to do: mend it (is the disk full?), then run the same command again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        box.down(paths, NAME)
        print("mica: interrupted, the demo is removed; what was built is kept, so that the next run is shorter", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
