"""Where the configuration file is, and how it is read and replaced. What it means is in `keys` and `config`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mica_cli.standalone.config import PLACEHOLDER
from mica_cli.standalone.keys import BadKey

HEADER = """\
# Configuration of the stand-alone router: mica config KEY VALUE changes it, mica config --help lists every key,
# mica check-config checks it, mica run starts the router.
"""

INITIAL: Mapping[str, Any] = {
    "services": {
        "gpu": {"host": "127.0.0.1", "port": 7001},
        "cpu": {"host": "127.0.0.1", "port": 7002},
        "conductor": {"host": "0.0.0.0", "port": 7010},
    },
    "models": {"default": PLACEHOLDER, "params": {"max_tokens": 200, "temperature": 0.7, "test_tokens": 30}},
    "system": {"request_timeout": 600, "max_queue_size": 200},
}
"""What a new file says. Everything else has its default until it is set."""


def default_path(environment: Mapping[str, str]) -> Path:
    """`$MICA_CONFIG`; for root `/etc/mica/router.yaml`; for others `mica/router.yaml` in `$XDG_CONFIG_HOME` or `~/.config`."""
    if named := environment.get("MICA_CONFIG"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/etc/mica/router.yaml")
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "mica" / "router.yaml"


def read(path: Path) -> Any:
    """The tree in a file. Raises BadKey when it is missing, unreadable or no YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadKey(f"{path} does not exist; run mica init") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadKey(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise BadKey(f"{path} is not valid YAML: {error}") from error


def write(path: Path, tree: Mapping[str, Any]) -> None:
    """Replace the file as a whole, so that a kill leaves the old or the new one. Raises BadKey when that is impossible."""
    text = HEADER + yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner only; a file that exists keeps who may read it.
        Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        Path(name).replace(path)
    except OSError as error:
        raise BadKey(f"{path} cannot be written: {error}") from error
