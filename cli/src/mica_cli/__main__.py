"""`mica` and `kubectl mica`: arguments in, text out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from enum import StrEnum
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from mica_api.names import API_VERSION
from mica_cli.eligible import excluded, nodes_by_name
from mica_cli.explain import explain_path, notes, parse_pod, reached_us, told
from mica_cli.kubectl import ClusterError, read_api, read_pod, read_through_proxy
from mica_cli.router import router_environment
from mica_cli.slices import UnreadableNodes, parse_nodes, slices_table
from mica_cli.standalone import commands as standalone

NODES_PATH = f"/apis/{API_VERSION}/vgpunodes"


class Output(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"


app = typer.Typer(
    name="mica",
    help="GPU slices for AI inference on Kubernetes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


standalone.register(app)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(distribution_version("mica"))


@app.command()
def slices(node: Annotated[str | None, typer.Option(help="Only the cards of this node.")] = None) -> None:
    """Show every GPU and the slices on it."""
    try:
        nodes = parse_nodes(read_api(NODES_PATH))
    except (ClusterError, UnreadableNodes) as error:
        _fail(str(error))
    if node is not None:
        nodes = [found for found in nodes if found.metadata.name == node]
    if not nodes:
        _fail(f"no GPU node named {node}" if node else "no GPU node has been reported yet; is the node agent running?")
    for line in slices_table(nodes):
        typer.echo(line)


@app.command()
def explain(
    pod: Annotated[str, typer.Argument(help="Name of the pod.")],
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Its namespace; kubectl's current one.")] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="table or json.")] = Output.TABLE,
    nodes: Annotated[int, typer.Option(min=0, max=500, help="Nodes to show card by card.")] = 10,
    system_namespace: Annotated[str, typer.Option(help="Namespace that Mica is installed in.")] = "mica-system",
) -> None:
    """Say why a pod is where it is or nowhere, card by card, and what would have to change."""
    try:
        body = parse_pod(read_pod(pod, namespace))
        path = explain_path(body, system_namespace=system_namespace, nodes=nodes)
        explanation = json.loads(read_through_proxy(path)) if reached_us(body) else None
        ruled_out = _excluded(body) if explanation is not None else None
    except (ClusterError, ValueError) as error:
        _fail(str(error))
    if output == Output.JSON:
        typer.echo(json.dumps({**(explanation or {}), "excluded": ruled_out, "notes": notes(body)}, indent=2))
        return
    for line in told(body, explanation, ruled_out):
        typer.echo(line)


def _excluded(pod: Mapping[str, Any]) -> dict[str, str] | None:
    """Nodes that the pod itself rules out; None when the caller may not list nodes."""
    try:
        return excluded(pod, nodes_by_name(read_api("/api/v1/nodes?resourceVersion=0")))
    except ClusterError:
        return None


@app.command()
def run(
    routes: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, readable=True, help="Routes file (YAML or JSON), in place of the configuration."
        ),
    ] = None,
    config: standalone.ConfigFile = None,
    demo: Annotated[bool, typer.Option("--demo", help="Start two small engines, and the router before them.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default of the configuration, else 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the OpenAI API; default of the configuration, else 8000.")
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of health, metrics and demand; default 8080.")
    ] = None,
) -> None:
    """Run the router here, without a cluster: tests the engines of the configuration file, then starts."""
    if sum((routes is not None, config is not None, demo)) > 1:
        _fail("give one of --routes, --config and --demo")
    if demo:
        # Not at the top: the other commands start without it.
        from mica_cli.standalone.demo import run_demo

        run_demo(host=host or "127.0.0.1", port=port, admin_port=admin_port)
        return
    from mica_cli.standalone.start import become_router, run_configured

    if routes is None:
        found = standalone.load(standalone.chosen(config))
        run_configured(found, host=host, port=port, admin_port=admin_port or 8080)
    become_router(
        router_environment(
            os.environ, routes=routes.resolve(), host=host or "127.0.0.1", port=port or 8000, admin_port=admin_port or 8080
        )
    )


@app.command("simulate")
def simulate_command(
    trace: Annotated[Path | None, typer.Option(help="Folder of the openb trace (Alibaba cluster-trace-gpu-v2023).")] = None,
    pods: Annotated[
        str | None, typer.Option("--list", help="Pod list of the trace: default (as without it), cpu200, gpushare40, …")
    ] = None,
    snapshot: Annotated[
        list[Path] | None,
        typer.Option(help="File with VGPUNodes and pods as kubectl get -o json or yaml gives them; repeatable."),
    ] = None,
    waiting_only: Annotated[bool, typer.Option(help="Leave the snapshot's running pods where they are.")] = False,
    policy: Annotated[list[str] | None, typer.Option(help="Policy to simulate, the first is compared; repeatable.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Replays of each policy.")] = 10,
    load: Annotated[
        float | None, typer.Option(min=0.01, max=10, help="GPU that pods of the trace ask for, over capacity; 1.3 without it.")
    ] = None,
    sample: Annotated[int, typer.Option(min=0, max=100, help="percentageOfNodesToScore; 0 is the adaptive default.")] = 0,
    processes: Annotated[int, typer.Option(min=0, max=1024, help="Replays at a time; 0: one for each core.")] = 0,
    log: Annotated[
        Path | None, typer.Option(help="File for one JSON line per pod: its node and cards, or why it failed.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="File for an SVG picture of allocation against arrivals.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all figures as JSON.")] = None,
) -> None:
    """Replay a trace or a snapshot through the placement engine and compare policies."""
    # Not at the top: the other commands start without numpy.
    from mica_cli.simulate import Request, main

    options = Request(
        trace=trace,
        pods=pods,
        snapshot=tuple(snapshot or ()),
        waiting_only=waiting_only,
        policies=tuple(policy or ()),
        seeds=seeds,
        load=load,
        sample=sample,
        processes=processes,
        log=log,
        plot=plot,
        figures=json_file,
    )
    if problem := main(options):
        _fail(problem)


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


def main() -> None:
    """Entry point of both names."""
    app()


if __name__ == "__main__":
    main()
