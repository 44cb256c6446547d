"""`mica init`, `config`, `check-config`, `interfaces` and `model`: the configuration file from the shell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml

from mica_cli.standalone import store
from mica_cli.standalone.config import PLACEHOLDER, TIERS, Config
from mica_cli.standalone.keys import ALIASES, BadKey, described, get_key, parse, set_key

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Configuration file; default $MICA_CONFIG, /etc/mica/router.yaml for root, else ~/.config/mica/router.yaml.",
    ),
]


def _key_list() -> str:
    """Every key, for `mica config --help`."""
    rows = [f"{key}  {text}" + (f" (default {default})" if default else "") for key, default, text in described()]
    old = ", ".join(sorted(ALIASES))
    return "\n\n".join(["Keys:", *rows, f"Names of earlier generations that are understood: host, {old}."])


def register(app: typer.Typer) -> None:
    """Add the commands to `mica`."""
    app.command("init")(init)
    # A value may begin with a dash, and is no option then.
    app.command("config", epilog=_key_list(), context_settings={"ignore_unknown_options": True})(config)
    app.command("check-config")(check_config)
    app.command("interfaces")(interfaces)
    app.command("model")(model)


def init(
    file: ConfigFile = None,
    take: Annotated[Path | None, typer.Option("--from", help="Take over this file, for example one of sysHAX.")] = None,
    force: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
) -> None:
    """Write a configuration file for the stand-alone router."""
    path = chosen(file)
    if path.exists() and not force:
        fail(f"{path} exists; change it with mica config, or replace it with --force")
    try:
        tree = store.read(take) if take else store.INITIAL
        parse(tree)
        store.write(path, tree)
    except BadKey as error:
        fail(f"{take}: {error}" if take else str(error))
    typer.echo(f"wrote {path}")


def config(
    key: Annotated[str, typer.Argument(help="Key, for example services.gpu.port.")],
    value: Annotated[str | None, typer.Argument(help="Its new value; left out, the value in force is printed.")] = None,
    file: ConfigFile = None,
) -> None:
    """Set a key of the configuration file, or print what is in force."""
    path = chosen(file)
    try:
        tree = store.read(path) if value is None or path.exists() else dict(store.INITIAL)
        if not isinstance(tree, dict):
            raise BadKey(f"{path} is not a mapping of sections; run mica init --force for a new one")
        if value is None:
            typer.echo(_yaml(get_key(tree, key)))
            return
        store.write(path, set_key(tree, key, value))
    except BadKey as error:
        fail(str(error))
    typer.echo(f"{key} = {value}  ({path})")


def check_config(file: ConfigFile = None) -> None:
    """Check the configuration file and print what is in force."""
    found = load(chosen(file))
    typer.echo(yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)


def interfaces(file: ConfigFile = None) -> None:
    """Print the addresses of the engines and of the router."""
    for line in _interfaces(load(chosen(file))):
        typer.echo(line)


def model(file: ConfigFile = None) -> None:
    """Print the model and what requests get that do not say it."""
    models = load(chosen(file)).models
    typer.echo(f"model name: {models.default}")
    typer.echo(f"max_tokens: {_yaml(models.params.max_tokens)}")
    typer.echo(f"temperature: {_yaml(models.params.temperature)}")


def chosen(file: Path | None) -> Path:
    """The file of `--config`, or the default one."""
    return file if file is not None else store.default_path(os.environ)


def load(path: Path) -> Config:
    """The configuration in a file, complete enough to run. Ends the program in words when it is not."""
    try:
        found = parse(store.read(path))
        if found.models.default == PLACEHOLDER:
            raise BadKey("models.default: say which model the engines serve, with mica config models.default NAME")
    except BadKey as error:
        fail(f"{path}: {error}" if str(path) not in str(error) else str(error))
    return found


def _interfaces(found: Config) -> Iterator[str]:
    for tier in TIERS:
        engines = getattr(found.services, tier)
        for engine in engines:
            yield f"{tier}: http://{engine.host}:{engine.port}"
        if not engines:
            yield f"{tier}: none"
    yield f"conductor: http://{found.services.conductor.host}:{found.services.conductor.port}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True).removesuffix("...\n").strip()


def fail(message: str) -> NoReturn:
    """End the program: the command did nothing, and this is why."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)
