"""`mica run` with a configuration file: test the engines, say what was found, hand over to the router."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import httpx
import typer
import yaml

from mica_cli.router import left_out, router_environment
from mica_cli.standalone.checks import Answer, compare, performance_ratio, reach
from mica_cli.standalone.commands import fail
from mica_cli.standalone.config import Config
from mica_cli.standalone.convert import idle_keys, no_relay, routes_of, settings_of

ROUTER: Final = (sys.executable, "-m", "mica_router")


def run_configured(config: Config, *, host: str | None, port: int | None, admin_port: int) -> NoReturn:
    """Becomes the router, so that signals and the exit code are its own. Ends the program in words when no engine is fit."""
    port = port or config.services.conductor.port
    if port == admin_port:
        fail(f"port {port} is that of the OpenAI API and of metrics: give another one with --admin-port")
    answers, ratio = tested(config)
    kinds = {answer.url: answer.kind for answer in answers}
    without = [answer.url for answer in answers if answer.serves_others]
    if reason := no_relay(config, kinds=kinds, without=without):
        fail(reason)
    if idle := idle_keys(config, without=without):
        typer.echo(idle)
    routes = routes_of(config, kinds=kinds, without=without)
    environment = router_environment(
        os.environ | settings_of(config, ratio=ratio),
        routes=private_file(routes),
        host=host or config.services.conductor.host,
        port=port,
        admin_port=admin_port,
    )
    become_router(environment)


def tested(config: Config) -> tuple[list[Answer], float | None]:
    """What every engine answered and how far the GPU tier is ahead, both printed. Ends the program when no engine is fit."""
    with httpx.Client(trust_env=False) as client:
        answers = reach(config, client)
        for answer in answers:
            after = "left out" if answer.serves_others else "used when it answers"
            typer.echo(f"{answer.tier} {answer.url}: {'ok' if answer.problem is None else f'{answer.problem} ({after})'}")
        if all(answer.problem is not None for answer in answers):
            fail(f"no engine serves {config.models.default}: start one, or correct services.* and models.default")
        paces = compare(config, answers, client)
    for pace in paces:
        typer.echo(f"{pace.tier}: {pace.tokens_per_second:.1f} tokens/s, a test request takes {pace.seconds:.2f} s")
    ratio = performance_ratio(paces)
    if ratio is not None:
        typer.echo(f"performance ratio of the tiers: {ratio:.2f}")
    return answers, ratio


def private_file(routes: Mapping[str, Any]) -> Path:
    """A file in memory that only this process and those that it becomes or starts can open, and that ends with them."""
    descriptor = os.memfd_create("mica-routes", 0)
    with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as file:
        yaml.safe_dump(dict(routes), file, allow_unicode=True)
    return Path(f"/proc/self/fd/{descriptor}")


def become_router(environment: Mapping[str, str]) -> NoReturn:
    """The router takes this process's place."""
    if ignored := left_out(os.environ):
        typer.echo(f"not passed on to the router: {', '.join(ignored)}", err=True)
    sys.stdout.flush()
    os.execve(ROUTER[0], ROUTER, dict(environment))
