"""The base of the images: the host's own Debian release, bootstrapped without a registry."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from mica_box.images.store import Image, Store
from mica_box.proc import CONTAINED, run
from mica_box.progress import step

PACKAGES = ("python3", "python3-venv", "ca-certificates", "libstdc++6", "libgomp1")
"""The C++ and OpenMP runtimes are what Python wheels with native code expect to find."""
NOT_INSTALLED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*")
CLEANED = ("var/lib/apt/lists", "var/cache/apt", "var/cache/debconf", "var/cache/ldconfig", "var/log", "tmp")
PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RECIPE = "1"
"""Change it to have every base made anew."""


def codename(os_release: str) -> str:
    """Debian's name for the release (`bookworm`); `stable` where /etc/os-release has none."""
    for line in os_release.splitlines():
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip('"')
    return "stable"


def sources(index_targets: str, release: str) -> list[str]:
    """The host's own apt sources of its release (updates and security included), as `deb` lines.

    `index_targets` has one line `URI RELEASE COMPONENT` per package index. Third-party sources are left out.
    """
    found: dict[str, None] = {}
    for line in index_targets.splitlines():
        uri, suite, component = line.split()[:3]
        if (suite == release or suite.startswith(f"{release}-")) and component == "main":
            found[f"deb {uri} {suite} {component}"] = None
    return list(found)


def _host_sources(release: str) -> list[str]:
    said = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"])
    return sources(said, release)


def key(os_release: str) -> str:
    """Names the base by everything that decides what it holds, mirrors aside."""
    text = "\0".join([RECIPE, codename(os_release), *PACKAGES, *NOT_INSTALLED, *CLEANED])
    return f"base-{codename(os_release)}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def ensure(store: Store) -> tuple[str, str]:
    """Key and manifest digest of the base image; bootstraps it when the store lacks it."""
    os_release = Path("/etc/os-release").read_text()
    name = key(os_release)
    known = store.find(name)
    if known:
        return name, known
    with step("base image: bootstrapping Debian (about a minute)"), tempfile.TemporaryDirectory(dir=store.root) as scratch:
        tar = Path(scratch, "base.tar")
        _bootstrap(codename(os_release), tar)
        layer = store.layer(store.take(tar))
    image = Image((layer,), {"architecture": architecture(), "os": "linux", "config": {"Env": [PATH_ENV], "Cmd": ["sh"]}})
    return name, store.remember(name, store.save(image))


def architecture() -> str:
    """The host's architecture in OCI's words."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _bootstrap(release: str, tar: Path) -> None:
    """The file system is put together beside `tar`: whoever removes that folder removes everything."""
    clean = " ".join(f'"$1/{folder}"/*' for folder in CLEANED)
    argv = [
        *CONTAINED,
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=essential", f"--include={','.join(PACKAGES)}"),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_INSTALLED),
        # python3-venv is wanted for its module, not for what it recommends.
        "--aptopt=APT::Install-Recommends false",
        f"--customize-hook=rm -rf {clean}",
        release,
        str(tar),
        *_host_sources(release),
    ]
    run(
        argv,
        env={**os.environ, "SOURCE_DATE_EPOCH": "0", "TMPDIR": str(tar.parent)},
        do="check the network (the Debian mirror of this host must be reachable) and `apt-get update`, then run again",
    )
