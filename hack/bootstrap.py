"""Make .venv: the development environment, exactly as locked. Runs on the system's Python, standard library only.

usage: python3 hack/bootstrap.py
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
VENV = REPO / ".venv"
STAMP = VENV / ".locked"
MINIMUM = (3, 11)


def fail(what: str, do: str) -> None:
    """End with words."""
    sys.exit(f"mica: {what}\n  what to do: {do}")


def run(*argv: str, do: str = "check the network (Python packages must be reachable), then run again") -> None:
    """Run; a failure ends us with the command and advice."""
    if subprocess.run(argv, check=False).returncode != 0:
        fail(f"failed: {' '.join(argv)}", do)


def uv_version() -> str:
    """The pinned uv."""
    import tomllib  # absent before 3.11, where check_python has to speak first

    return str(tomllib.loads((REPO / "hack" / "versions.toml").read_text())["tools"]["uv"])


def has_venv() -> bool:
    """Debian ships venv without what it needs to put pip into a new environment."""
    probe = [sys.executable, "-c", "import venv, ensurepip"]
    return subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0


def has_headers() -> bool:
    """Debian ships Python without what the parts in C are compiled with."""
    return (Path(sysconfig.get_path("include")) / "Python.h").exists()


def may_install() -> bool:
    """Whether this is Debian's Python and we may install Debian's packages."""
    return Path(sys.executable).resolve().parent == Path("/usr/bin") and bool(shutil.which("apt-get")) and os.geteuid() == 0


def install(package: str) -> bool:
    """From Debian; whether that succeeded."""
    print(f"… installing Debian package {package}", file=sys.stderr, flush=True)
    apt = ("apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=120")
    wanted = (*apt, "install", "--no-install-recommends", package)
    return any(
        all(subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode == 0 for words in steps)
        for steps in ((wanted,), ((*apt, "update"), wanted))
    )


def complete_python() -> None:
    """Install what Debian splits off Python. Without headers we go on: what is compiled needs them, and says so then."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not has_venv() and not (may_install() and install(f"{version}-venv")):
        fail(f"{sys.executable} has no venv module", f"install it (Debian: apt-get install {version}-venv), then run again")
    if not has_headers() and may_install():
        install(f"{version}-dev")


def main() -> None:
    """Create the environment when it is absent; install what is locked and the tree itself."""
    if sys.version_info < MINIMUM:
        fail(f"Python {sys.version.split()[0]} is too old", "use Python 3.11 or newer: make PYTHON=python3.11 …")
    python = VENV / "bin" / "python"
    if not python.exists():
        complete_python()
        print("… making .venv", file=sys.stderr, flush=True)
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
    uv = VENV / "bin" / "uv"
    if not uv.exists() or uv_version() not in subprocess.run([str(uv), "--version"], capture_output=True, text=True).stdout:
        run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"uv=={uv_version()}")
    print("… installing the locked dependencies", file=sys.stderr, flush=True)
    install = (str(uv), "pip", "install", "--quiet", "--python", str(python))
    run(*install, "--require-hashes", "-r", str(REPO / "hack" / "requirements" / "dev.lock"))
    run(*install, "--no-deps", "--editable", str(REPO))
    STAMP.touch()


if __name__ == "__main__":
    main()
