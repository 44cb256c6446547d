"""The cgroup folders of a box, in every hierarchy of cgroup v1 and in v2."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mica_box.errors import BoxError

MOUNT = Path("/sys/fs/cgroup")
V2_CONTROLLERS = ("cpuset", "cpu", "memory", "pids", "hugetlb", "io")
REMOVE_TIMEOUT_S = 10.0


def hierarchies(mount: Path = MOUNT) -> list[Path]:
    """Roots of all mounted hierarchies. With v2 alone that is the mount point itself."""
    if (mount / "cgroup.controllers").exists():
        return [mount]
    return sorted(child for child in mount.iterdir() if child.is_dir() and not child.is_symlink())


def _enable_v2(folder: Path) -> None:
    """Hand the controllers that kubelet asks for down to the children; those the kernel lacks are left out."""
    available = (folder / "cgroup.controllers").read_text().split()
    for controller in V2_CONTROLLERS:
        if controller in available:
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def create(name: str, mount: Path = MOUNT) -> None:
    """Make the folder in every hierarchy: kubelet refuses a cgroupRoot that does not exist."""
    roots = hierarchies(mount)
    for root in roots:
        folder = root / name
        if root == mount:
            _enable_v2(root)
        folder.mkdir(exist_ok=True)
        if root == mount:
            _enable_v2(folder)
        for file in ("cpuset.cpus", "cpuset.mems"):
            # A new v1 cpuset is empty, and no process can enter an empty one.
            if root != mount and (folder / file).exists() and not (folder / file).read_text().strip():
                (folder / file).write_text((root / file).read_text())


def remove(name: str, mount: Path = MOUNT) -> None:
    """Remove the folder and all below it. Raises when processes are left inside."""
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    while left := [root / name for root in hierarchies(mount) if (root / name).is_dir() and not _remove(root / name)]:
        if time.monotonic() > deadline:
            raise BoxError(f"cgroups are still in use: {', '.join(map(str, left))}")
        time.sleep(0.1)


def _remove(folder: Path) -> bool:
    """Bottom up; a busy folder (a process not reaped yet) is for the next try."""
    for root, _, _ in os.walk(folder, topdown=False):
        try:
            Path(root).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
