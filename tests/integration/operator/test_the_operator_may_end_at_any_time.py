from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

WaitFor = Callable[..., Any]


def _revisions(services: Any) -> dict[str, str]:
    found = services.get("minf,deployments,services")["items"] + services.box.get("vgpupools")["items"]
    return {f"{b['kind']}/{b['metadata']['name']}": b["metadata"]["resourceVersion"] for b in found}


def _settled_revisions(services: Any) -> dict[str, str] | None:
    """Revisions, or None while controllers still write: the Deployment's says that it is done some time after its pods are."""
    before = _revisions(services)
    time.sleep(4)
    return before if _revisions(services) == before else None


def test_a_restart_changes_nothing(services: Any, operator: Any, wait_for: WaitFor) -> None:
    services.create("tiny")
    services.wait_ready("tiny", "True", "Serving")
    before = wait_for(lambda: _settled_revisions(services))
    assert operator.stop() == 0, operator.log.read_text()[-2000:]
    operator.start()
    done = 'mica_operator_reconciles_total{kind="InferenceService",outcome="done"}'
    wait_for(lambda: operator.total(done))
    time.sleep(1)
    assert _revisions(services) == before
    assert operator.total("mica_operator_writes_total{") == 0


def test_what_happened_while_it_was_dead_is_caught_up_with(services: Any, operator: Any, wait_for: WaitFor) -> None:
    services.create("tiny")
    services.wait_ready("tiny")
    operator.kill()
    services.create("born-meanwhile")
    services.box.kubectl("-n", services.namespace, "scale", "minf", "tiny", "--replicas=2")
    services.box.kubectl("-n", services.namespace, "delete", "service", "tiny-engine")
    operator.start()
    services.wait_ready("born-meanwhile")
    wait_for(lambda: services.get("minf", "tiny")["status"]["readyReplicas"] == 2)
    wait_for(lambda: len(services.get("services")["items"]) == 2)
