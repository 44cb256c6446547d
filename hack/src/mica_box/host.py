"""What the host must offer: root, Debian's packages, free space. Installs what is missing, refuses in words otherwise."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from mica_box.errors import BoxError
from mica_box.proc import run, succeeds
from mica_box.progress import step

GIB = 1 << 30

PACKAGES: Mapping[str, str] = {
    "runc": "runc",
    "nft": "nftables",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "unshare": "util-linux",
    "mount": "mount",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "cc": "gcc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "/usr/include/stdio.h": "libc6-dev",
}
"""Program (or file) → Debian package that brings it."""

BOX_NEEDS = ("runc", "nft", "iptables", "conntrack", "ip", "unshare", "mount", "/usr/lib/cni/ptp")
IMAGE_NEEDS = ("buildah", "mmdebstrap", "cc", "/usr/include/stdio.h", "unshare")


def require_root() -> None:
    """Raise unless we are root: namespaces, mounts and links need it."""
    if os.geteuid() != 0:
        raise BoxError("this needs root: it makes namespaces, mounts and network links", do="run it with sudo")


def is_present(need: str) -> bool:
    """Whether a program is on the path (sbin folders included) or a file is there."""
    if need.startswith("/"):
        return Path(need).exists()
    search = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(need, path=search) is not None


def missing_packages(needs: Iterable[str]) -> list[str]:
    """Debian packages that bring what is missing."""
    return sorted({PACKAGES[need] for need in needs if not is_present(need)})


def install(needs: Iterable[str]) -> None:
    """Install what is missing with apt-get. Raises where there is no apt or it fails."""
    packages = missing_packages(needs)
    if not packages:
        return
    if not shutil.which("apt-get"):
        raise BoxError(
            f"these Debian packages are missing and there is no apt-get: {', '.join(packages)}",
            do="use Debian (or a derivative), or install the same programs by hand and run again",
        )
    require_root()
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    argv = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120", "install", "--no-install-recommends", *packages]
    advice = "check the network and /etc/apt, try `apt-get update`, then run the same command again"
    with step(f"installing Debian packages: {' '.join(packages)}"):
        if not _install_quietly(argv, env):
            run(["apt-get", "-q", "update"], env=env, do=advice)
            run(argv, env=env, do=advice)


def _install_quietly(argv: list[str], env: Mapping[str, str]) -> bool:
    """First try with the package lists as they are: on most machines they are fresh enough."""
    try:
        run(argv, env=env)
    except BoxError:
        return False
    return True


def require_space(folder: Path, need_bytes: int, what: str) -> None:
    """Raise when the file system of `folder` (or its nearest parent that exists) has less than `need_bytes` free."""
    probe = folder
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if free < need_bytes:
        raise BoxError(
            f"{what} needs {need_bytes / GIB:.1f} GiB on the disk of {probe}, and {free / GIB:.1f} GiB are free",
            do=f"free {(need_bytes - free) / GIB:.1f} GiB there, or set MICA_CACHE to a folder on a larger disk",
        )


def load_kernel_modules() -> None:
    """Ask for the modules that a box uses; where they are built in or modprobe is absent this does nothing."""
    for module in ("overlay", "veth", "nf_tables", "nf_conntrack", "nft_chain_nat", "br_netfilter"):
        if shutil.which("modprobe"):
            succeeds(["modprobe", "-q", module])
