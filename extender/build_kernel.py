"""Builds the placement engine's C kernel into its package.

usage: python extender/build_kernel.py [--machine x86_64|aarch64] [--out FILE] [--unless-current]

The compiler is zig's, from the Python package ziglang, so that the library runs on glibc 2.17 and later whatever machine builds
it. Without a kernel everything works as well, on numpy. Used by the Makefile and, for wheels, by ``hatch_build.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

KERNEL = Path(__file__).resolve().parent / "src" / "mica_extender" / "placement" / "kernel"
LIBRARY = KERNEL / "libplacement.so"
MACHINES = ("x86_64", "aarch64")
FLAGS = (
    *("-std=c11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-sanitize=undefined", "-s"),
    *("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,--build-id=none"),
)


def sources_digest(kernel: Path = KERNEL) -> str:
    """Names the sources: a library that was built from others is not loaded."""
    digest = hashlib.sha256()
    for file in sorted([*kernel.glob("*.c"), *kernel.glob("*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def build(out: Path = LIBRARY, machine: str = platform.machine()) -> None:
    """Compile and link. Raises CalledProcessError with the compiler's words on stderr."""
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        made = Path(scratch) / out.name
        argv = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.2.17", *FLAGS]
        argv += [f'-DMICA_KERNEL_DIGEST="{sources_digest()}"', f"-ffile-prefix-map={KERNEL}=kernel"]
        argv += [*(str(file) for file in sorted(KERNEL.glob("*.c"))), "-o", str(made)]
        subprocess.run(argv, check=True, env={**os.environ, "ZIG_LOCAL_CACHE_DIR": scratch})
        made.replace(out)


def is_current(library: Path) -> bool:
    """Whether the library carries the digest of the sources as they are now."""
    return library.exists() and sources_digest().encode() in library.read_bytes()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", choices=MACHINES, default=platform.machine())
    parser.add_argument("--out", type=Path, default=LIBRARY)
    parser.add_argument("--unless-current", action="store_true", help="do nothing when FILE was built from these sources")
    args = parser.parse_args()
    if not (args.unless_current and is_current(args.out)):
        build(args.out.resolve(), args.machine)


if __name__ == "__main__":
    main()
