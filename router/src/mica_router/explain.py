"""Where a described request would go, and why. Uses the data path's own dispatch and chooser; sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mica_router.core.choice import LoadView
from mica_router.core.dispatch import Answer, dispatch
from mica_router.core.errors import ApiError
from mica_router.core.headers import first_of_each
from mica_router.core.keys import without_keys
from mica_router.core.request import Request
from mica_router.core.routes import RouteTable
from mica_router.core.routing import Routing
from mica_router.core.tier_chooser import TierChooser

_PATH_HELP: Final = "begin it with '/', as in /v1/chat/completions."


def body_of_query(query: Mapping[str, str]) -> bytes:
    """A JSON body of query parameters: numbers, true, false and JSON as such, anything else as a string, and so is the model."""
    fields = {name: _value(text) for name, text in query.items() if name != "path"}
    if "model" in fields and not isinstance(fields["model"], str):
        fields["model"] = query["model"]  # models may be named 123, or true
    return msgspec.json.encode(fields)


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def explain_request(
    path: str, body: bytes, headers: Mapping[str, str], *, table: RouteTable, chooser: TierChooser, load: LoadView
) -> tuple[int, dict[str, Any]]:
    """Status and account. Keys are not asked for: who may use the admin port may know."""
    if not path.startswith("/"):
        return 400, {"refused": "path_invalid", "message": f"The path '{path[:200]}' is none: {_PATH_HELP}"}
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    request = Request(
        method=b"POST",
        target=path.encode(),
        headers=without_keys(pairs),
        lookup=first_of_each(without_keys(pairs)),
        body=body,
        keep_alive=True,
        http10=False,
        size=len(body),
    )
    decision = dispatch(request, _open(table))
    if isinstance(decision, ApiError):
        return decision.status, {"refused": decision.code, "message": decision.message}
    if isinstance(decision, Answer):
        return 200, {"answered": "by the router itself"}
    service = decision.route.service
    account = chooser.explain(decision, candidates=service.engines, load=load)
    return 200, {"service": service.key.qualified, "model": decision.route.engine_model, **account}


def _open(table: RouteTable) -> RouteTable:
    """The same routes without keys."""
    import dataclasses

    from mica_router.core.routes import build_table

    def without(routing: Routing) -> Routing:
        return dataclasses.replace(routing, api_keys=()) if routing.api_keys else routing

    services = (route.service for route in table.by_key.values())
    return build_table(dataclasses.replace(service, routing=without(service.routing)) for service in services)
