"""What is written down about boxes on this machine: one plan per box, and the host folders that were made for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from mica_box.plan import Mode, Plan

PLAN = "plan.json"
MADE = "made-folders.json"


def save(plan: Plan) -> None:
    """Write the plan into the box's root."""
    plan.root.mkdir(parents=True, exist_ok=True)
    plan.root.chmod(0o755)
    body = {"name": plan.name, "index": plan.index, "mode": plan.mode.value}
    (plan.root / PLAN).write_text(json.dumps(body))


def load(boxes: Path, name: str) -> Plan | None:
    """The plan of a box that is up or half up; None when there is none (or it cannot be read)."""
    try:
        body = json.loads((boxes / name / PLAN).read_text())
        return Plan(name=body["name"], index=int(body["index"]), root=boxes / name, mode=Mode(body["mode"]))
    except (OSError, ValueError, KeyError):
        return None


def load_all(boxes: Path) -> list[Plan]:
    """Plans of all boxes, by name."""
    if not boxes.is_dir():
        return []
    plans = (load(boxes, entry.name) for entry in sorted(boxes.iterdir()) if entry.is_dir())
    return [plan for plan in plans if plan is not None]


def make_folders(boxes: Path, folders: Iterable[str]) -> None:
    """Make mount points that the host lacks, and remember which they are."""
    made = _made(boxes)
    for folder in folders:
        if not Path(folder).exists():
            made.append(folder)
            boxes.mkdir(parents=True, exist_ok=True)
            (boxes / MADE).write_text(json.dumps(made))
            Path(folder).mkdir(parents=True)


def _made(boxes: Path) -> list[str]:
    try:
        return [str(folder) for folder in json.loads((boxes / MADE).read_text())]
    except (OSError, ValueError):
        return []


def forget(plan: Plan, boxes: Path) -> None:
    """Remove the box's root and, after the last box, the mount points that were made for it.

    Not before: removing a folder detaches what another box has mounted on it.
    """
    shutil.rmtree(plan.root, ignore_errors=False) if plan.root.exists() else None
    if not boxes.is_dir() or any(entry.is_dir() for entry in boxes.iterdir()):
        return
    for folder in _made(boxes):
        if Path(folder).is_dir() and not any(Path(folder).iterdir()):
            Path(folder).rmdir()
    (boxes / MADE).unlink(missing_ok=True)
    boxes.rmdir()
