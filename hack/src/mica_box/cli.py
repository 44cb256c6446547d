"""Arguments in, calls out. No decision is made here."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from mica_box import binaries, box, host, kwok, processes, state
from mica_box.errors import BoxError
from mica_box.paths import Paths, paths_from
from mica_box.plan import Mode
from mica_box.progress import say
from mica_box.simulated import default_sim_config
from mica_box.versions import Versions, load_versions

INTERRUPTED = 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mica_box", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="build binaries or images into the cache")
    build.add_argument("what", choices=["binaries", "images"])
    up = commands.add_parser("up", help="start a box, or repair it")
    up.add_argument("name")
    up.add_argument("--mode", choices=[mode.value for mode in Mode], default=Mode.FULL.value)
    up.add_argument("--kwok-nodes", type=int, default=0, metavar="N", help="add N plain fake nodes")
    up.add_argument("--load", action="store_true", help="build the images and import them too")
    for name, text in (
        ("down", "stop a box and remove every trace of it"),
        ("kubeconfig", "print the path of a box's kubeconfig"),
        ("env", "print shell lines that point kubectl and helm at a box"),
        ("load", "build what changed and import the images into a box"),
    ):
        commands.add_parser(name, help=text).add_argument("name")
    commands.add_parser("status", help="list the boxes and their daemons")
    run = commands.add_parser("exec", help="run a program inside a box")
    run.add_argument("name")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="PROGRAM ...")
    return parser


def _up(paths: Paths, versions: Versions, args: argparse.Namespace) -> None:
    host.require_root()
    mode = Mode(args.mode)
    programs = binaries.ensure(paths, versions)
    the_box = box.up(paths, args.name, programs, mode=mode, sim_config=default_sim_config())
    if args.kwok_nodes:
        kwok.add_plain_nodes(the_box, args.kwok_nodes)
    if args.load:
        _load(paths, versions, the_box)
    say(f"kubeconfig: {the_box.kubeconfig}")


def _load(paths: Paths, versions: Versions, the_box: box.Box) -> None:
    from mica_box.images import catalogue

    for reference in catalogue.load(paths, versions, the_box).values():
        print(reference)


def _status(paths: Paths) -> None:
    plans = state.load_all(paths.boxes)
    if not plans:
        print("no boxes")
    for plan in plans:
        the_box = box.Box(plan)
        running = processes.init_pid(the_box.spec) is not None
        print(f"{plan.name}: {plan.mode.value}, {'running' if running else 'dead'}, host {plan.host_ip}, {plan.server}")
        for name, daemon in the_box.status().daemons.items() if running else ():
            note = f", ended {daemon.deaths} times, last with {daemon.exit}" if daemon.deaths else ""
            print(f"  {name}: {'ready' if daemon.ready else 'not ready'}{note}")


def _exec(paths: Paths, args: argparse.Namespace) -> int:
    words = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not words:
        raise BoxError("exec needs a program", do="python -m mica_box exec NAME PROGRAM [ARGUMENT ...]")
    the_box = box.find(paths, args.name)
    path = f"{the_box.plan.bin}:{os.environ.get('PATH', '')}"
    return subprocess.run(the_box.inside(*words), check=False, env={**os.environ, "PATH": path}).returncode


def _build(paths: Paths, versions: Versions, what: str) -> None:
    if what == "binaries":
        for name, program in sorted(binaries.ensure(paths, versions).items()):
            print(f"{name}\t{program}")
        return
    from mica_box.images import catalogue

    for reference in catalogue.build(paths, versions, binaries.ensure(paths, versions)).values():
        print(reference)


def _run(paths: Paths, args: argparse.Namespace) -> int:
    versions = load_versions(paths.hack / "versions.toml")
    match args.command:
        case "build":
            _build(paths, versions, args.what)
        case "up":
            _up(paths, versions, args)
        case "down":
            there_was = box.down(paths, args.name)
            say(f"✓ box {args.name} is gone" if there_was else f"there was no box {args.name}")
        case "status":
            _status(paths)
        case "kubeconfig":
            print(box.find(paths, args.name).kubeconfig)
        case "env":
            the_box = box.find(paths, args.name)
            print(f"export KUBECONFIG={the_box.kubeconfig}\nexport PATH={the_box.plan.bin}:$PATH")
        case "load":
            _load(paths, versions, box.find(paths, args.name))
        case "exec":
            return _exec(paths, args)
    return 0


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    """Both signals end us in the same way, so that what was begun is undone."""
    raise KeyboardInterrupt


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, 1 with a message, or 130 when interrupted."""
    args = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell ignores SIGINT for what it starts in the background
        signal.signal(number, _terminated)
    try:
        return _run(paths_from(os.environ), args)
    except BoxError as error:
        print(f"mica: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"mica: {error}\n  what to do: mend it (is the disk full?), then run the same command again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mica: interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
