"""Boxes for pytest: what the fixtures in tests/integration and tests/e2e are made of. Imports no pytest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mica_box import binaries, box
from mica_box.box import Box
from mica_box.locks import shared
from mica_box.paths import Paths, paths_from
from mica_box.plan import Mode
from mica_box.running import RunningBox
from mica_box.simulated import default_sim_config
from mica_box.versions import load_versions

__all__ = ["RunningBox", "running_box"]


def _load_images(paths: Paths, the_box: Box) -> dict[str, str]:
    from mica_box.images import catalogue

    return catalogue.load(paths, load_versions(paths.hack / "versions.toml"), the_box)


@contextmanager
def running_box(name: str, *, mode: Mode, load_images: bool = False) -> Iterator[RunningBox]:
    """A box for the length of the block. `MICA_KEEP_BOX=1` leaves it running for the next session.

    Sessions that run at the same time share it; it goes with the last of them.
    """
    paths = paths_from(os.environ)
    programs = binaries.ensure(paths, load_versions(paths.hack / "versions.toml"))

    def end() -> None:
        if os.environ.get("MICA_KEEP_BOX") != "1":
            box.down(paths, name)

    with shared(paths.locks / f"users-{name}", last_one=end):
        the_box = box.up(paths, name, programs, mode=mode, sim_config=default_sim_config())
        yield RunningBox(the_box, _load_images(paths, the_box) if load_images else {})
