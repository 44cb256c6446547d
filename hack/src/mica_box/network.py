"""The one link between host and box: a veth pair and two routes. All of it dies with the box's network namespace."""

from __future__ import annotations

import json
from pathlib import Path

from mica_box.plan import Plan
from mica_box.proc import run, succeeds


def host_routes() -> list[str]:
    """Destinations the host routes now."""
    return [str(route["dst"]) for route in json.loads(run(["ip", "-j", "-4", "route", "show"]) or "[]")]


def connect(plan: Plan, init: int) -> None:
    """Put one end into the box (whose init has host pid `init`), address the other, route pods and Services there."""
    name = plan.host_interface
    run(["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(init)])
    run(["ip", "addr", "add", f"{plan.host_ip}/24", "dev", name])
    run(["ip", "link", "set", name, "up"])
    for network in (plan.pod_network, plan.service_network):
        run(["ip", "route", "add", network, "via", plan.box_ip, "dev", name])


def disconnect(plan: Plan) -> None:
    """Remove the link now; the kernel would do so a little later. Its routes go with it."""
    if Path("/sys/class/net", plan.host_interface).exists():
        succeeds(["ip", "link", "del", plan.host_interface])
