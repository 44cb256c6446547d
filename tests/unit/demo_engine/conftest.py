"""The demo's engine is a folder of an image, not a package: its modules are loaded from there."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "hack/demo_engine"))
