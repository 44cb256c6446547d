"""Puts the limiter (and, on simulated nodes, the simulated driver) where containers can be given it.

A version is the hash of its content, so an installed one never changes; older ones stay, because running containers and the
kubelet's checkpoint name them. The directory is written under another name and appears under its final one when it is complete; a
damaged one is replaced as a whole.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from mica_device_plugin.files import Files

LIBRARY_FILES: Final = ("libmica.so", "libmica-nvml.so", "gpu-monitor")
PRELOAD_FILE: Final = "ld.so.preload"
SIMULATOR_FILES: Final = ("libcuda.so.1", "libnvidia-ml.so.1")
_PRELOAD: Final = b"/usr/lib/mica/libmica.so\n"
_REAL_DRIVER_SIGNS: Final = ("proc/driver/nvidia/version", "dev/nvidiactl")
_VERSION_LENGTH: Final = 16


class InstallError(RuntimeError):
    """The image lacks a file or the host cannot take it; the message says which."""


class RealDriverPresent(InstallError):
    """Simulated GPUs were asked for on a host that has real ones."""


def install_library(*, source: Path, target: Path, files: Files) -> Path:
    """Install the limiter below ``target``; returns the directory of its version. Raises InstallError."""
    contents = {name: _read(source / name, files) for name in LIBRARY_FILES} | {PRELOAD_FILE: _PRELOAD}
    return _install(contents, target, files)


def install_simulator(*, source: Path, target: Path, files: Files) -> Path:
    """Install the simulated driver below ``target``; returns the directory of its version. Raises InstallError."""
    return _install({name: _read(source / name, files) for name in SIMULATOR_FILES}, target, files)


def install_config(*, source: Path, target: Path, copied: Path, held: bool, files: Files) -> bool:
    """Bring the simulator's configuration to the host: when there is none, or ``source`` is not the one last copied.

    ``copied`` remembers that one, so that what people changed on the host meanwhile (a card's health) stays. ``held``: slices are
    still decided on the cards as they are; then nothing is changed. Returns False in that case. Raises InstallError.
    """
    content = _read(source, files, follow=True)
    if files.is_file(target) and content != files.read(target):
        if content == files.read(copied):
            return True
        if held:
            return False
    files.make_dir(target.parent)
    files.make_dir(copied.parent)
    files.write(target, content, mode=0o644)
    files.write(copied, content, mode=0o644, durable=True)
    return True


def refuse_simulation_beside_real_driver(root: Path) -> None:
    """Raises RealDriverPresent when the host below ``root`` has NVIDIA's driver loaded."""
    for sign in _REAL_DRIVER_SIGNS:
        if (root / sign).exists():
            raise RealDriverPresent(
                f"/{sign} exists: this host has a real NVIDIA driver, and simulated GPUs are never installed beside one. "
                "Unset MICA_SIMULATED on this node, or keep the simulated agent off it"
            )


def missing_files(version: Path, files: Files) -> list[str]:
    """Files of an installed library version that are not in place."""
    return [name for name in (*LIBRARY_FILES, PRELOAD_FILE) if not files.is_file(version / name)]


def _install(contents: dict[str, bytes], target: Path, files: Files) -> Path:
    version = target / _version(contents)
    if all(files.read(version / name) == content for name, content in contents.items()):
        return version
    files.write_dir(version, contents, mode=0o755)
    return version


def _version(contents: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(contents):
        digest.update(f"{name}:{len(contents[name])}:".encode() + contents[name])
    return digest.hexdigest()[:_VERSION_LENGTH]


def _read(path: Path, files: Files, *, follow: bool = False) -> bytes:
    content = files.read(path.resolve() if follow else path)
    if not content:
        raise InstallError(f"{path} is missing or empty: the image is incomplete, or a MICA_ directory setting is wrong")
    return content
