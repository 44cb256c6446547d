"""Builds the parts in C that packages of this tree work without, only slower: each into its package.

usage: python build_native.py [PART] [--machine x86_64|aarch64] [--out FILE] [--unless-current]

PART: placement (the extender's kernel; without it numpy) or relay (the router's steps for a read of a stream; without it Python);
both if none is named. The compiler is zig's, from the Python package ziglang, so that the libraries run on glibc 2.17 and later
whatever machine builds them. Used by the Makefile and, for wheels, by ``hatch_build.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
MACHINES = ("x86_64", "aarch64")
FLAGS = (
    *("-std=c11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-sanitize=undefined", "-s"),
    *("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,--build-id=none"),
)


class Part(NamedTuple):
    """`sources`: folder of the C files, in which the library lies too. `digest`: the macro that tells their digest.
    `headers`: whether it needs Python's. It uses the limited API only, so it is good for every Python from 3.11 on.
    """

    sources: Path
    library: str
    digest: str
    headers: bool = False

    @property
    def built(self) -> Path:
        """Where the library belongs."""
        return self.sources / self.library


PARTS = {
    "placement": Part(
        ROOT / "extender" / "src" / "mica_extender" / "placement" / "kernel", "libplacement.so", "MICA_KERNEL_DIGEST"
    ),
    "relay": Part(ROOT / "router" / "src" / "mica_router" / "hot", "_native.abi3.so", "MICA_NATIVE_DIGEST", headers=True),
}


def sources_digest(folder: Path) -> str:
    """Names the sources: a library that was built from others is not used."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.c"), *folder.glob("*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def header_options(scratch: Path, machine: str, *, folder: Path | None = None, multiarch: str | None = None) -> list[str]:
    """Where the compiler finds Python.h and what it includes: those of this Python, unless told. Raises OSError without them.

    Debian keeps a part below a folder that is named after the machine, for its own kind only. A compiler for an older glibc does
    not look there; the limited API is the same for both kinds.
    """
    folder = folder or Path(sysconfig.get_path("include"))
    multiarch = multiarch or sysconfig.get_config_var("MULTIARCH")
    if not (folder / "Python.h").exists():
        raise OSError(
            f"{folder}/Python.h is missing: install python3-dev (of this version), or the like of where this Python is from"
        )
    if not multiarch or not (folder.parent / multiarch).is_dir():
        return ["-isystem", str(folder)]
    (scratch / f"{machine}-linux-gnu").symlink_to(folder.parent / multiarch)
    return ["-isystem", str(folder), "-isystem", str(scratch)]


def build(part: Part, out: Path, machine: str) -> None:
    """Compile and link. Raises CalledProcessError with the compiler's words on stderr, or OSError without Python's headers."""
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        include = header_options(Path(scratch), machine) if part.headers else []
        made = Path(scratch) / out.name
        argv = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.2.17", *FLAGS, *include]
        argv += [f'-D{part.digest}="{sources_digest(part.sources)}"', f"-ffile-prefix-map={part.sources}={part.sources.name}"]
        argv += [*(str(file) for file in sorted(part.sources.glob("*.c"))), "-o", str(made)]
        subprocess.run(argv, check=True, env={**os.environ, "ZIG_LOCAL_CACHE_DIR": scratch})
        made.replace(out)


def is_current(part: Part, library: Path) -> bool:
    """Whether the library carries the digest of the sources as they are now."""
    return library.exists() and sources_digest(part.sources).encode() in library.read_bytes()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("--machine", choices=MACHINES, default=platform.machine())
    parser.add_argument("--out", type=Path, help="with PART: where to, instead of into the package")
    parser.add_argument("--unless-current", action="store_true", help="do nothing where the library was built from these sources")
    args = parser.parse_args()
    if args.out and not args.part:
        parser.error("--out is for one PART: name it")
    for part in [PARTS[args.part]] if args.part else PARTS.values():
        out = (args.out or part.built).resolve()
        if not (args.unless_current and is_current(part, out)):
            try:
                build(part, out, args.machine)
            except OSError as error:
                raise SystemExit(f"mica: {error}") from error


if __name__ == "__main__":
    main()
