"""`python -m mica_generate [--check]`: write the generated files, or say which ones differ."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mica_generate.files import REPOSITORY, drift, generated, write


def main() -> int:
    """Exit code 0 when everything is as generated (after writing: always), 1 on drift."""
    parser = argparse.ArgumentParser(prog="python -m mica_generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file differs")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="repository root")
    arguments = parser.parse_args()
    stale = drift(arguments.root, generated())
    if arguments.check:
        for path in stale:
            print(f"{path}: differs from what `make generate` writes; run it and commit the result", file=sys.stderr)
        return 1 if stale else 0
    for path in write(arguments.root, generated()):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
