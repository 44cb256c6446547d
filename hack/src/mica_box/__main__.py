"""`python -m mica_box`: boxes, binaries and images from the command line."""

from __future__ import annotations

import sys

from mica_box.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
