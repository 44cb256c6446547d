"""What becomes of a request: forwarded to a service, answered here, or refused. Pure: request and table in, decision out."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from mica_router.core import errors
from mica_router.core.errors import ApiError
from mica_router.core.request import Request
from mica_router.core.routes import Route, RouteTable
from mica_router.core.target import Target, is_forwarded, model_of, parse_target, rename_model

_READS = frozenset({b"GET", b"HEAD"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Send it to an engine of `route`. `target` and `body` are what the engine gets."""

    route: Route
    path: str
    target: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The router's own JSON answer, status 200."""

    body: bytes


def dispatch(request: Request, table: RouteTable) -> Forward | Answer | ApiError:
    """Decide one request. Path beats body; `/v1/models` is answered from the table, engines or not."""
    target = parse_target(request.target)
    if isinstance(target, ApiError):
        return target
    if target.namespace is not None and target.name is not None:
        return _by_path(request, target, table)
    if request.method in _READS:
        return _models(target.path, table.listed, table) or errors.path_not_found(target.path)
    return _by_body(request, target, table)


def _by_path(request: Request, target: Target, table: RouteTable) -> Forward | Answer | ApiError:
    route = table.for_path(namespace=target.namespace or "", name=target.name or "")
    if route is None:
        return errors.model_not_found(f"{target.namespace}/{target.name}")
    if not is_forwarded(target.path):
        return errors.path_not_forwarded(target.path)
    if request.method in _READS:
        answer = _models(target.path, (route,), table)
        if answer is not None:
            return answer
    model = model_of(request.body) if request.body.startswith(b"{") else None
    named = table.for_model(model) if isinstance(model, str) else None
    same_service = named is not None and named.service.key == route.service.key
    return _forward(request, target, route, used_name=model if same_service and isinstance(model, str) else None)


def _by_body(request: Request, target: Target, table: RouteTable) -> Forward | ApiError:
    if not is_forwarded(target.path):
        return errors.path_not_forwarded(target.path)
    model = model_of(request.body)
    if isinstance(model, ApiError):
        return model
    route = table.for_model(model)
    if route is None:
        return errors.model_not_found(model)
    return _forward(request, target, route, used_name=model)


def _forward(request: Request, target: Target, route: Route, *, used_name: str | None) -> Forward:
    """`used_name`: the name in the body that led here; one that engines do not know is replaced by theirs."""
    body = request.body
    if used_name is not None and used_name != route.service.model:
        body = rename_model(body, model=route.service.model)
    return Forward(route=route, path=target.path, target=target.forward, body=body)


def _models(path: str, routes: tuple[Route, ...], table: RouteTable) -> Answer | ApiError | None:
    if path == "/v1/models":
        return Answer(msgspec.json.encode({"object": "list", "data": [_model_entry(route) for route in routes]}))
    if not path.startswith("/v1/models/"):
        return None
    name = unquote(path.removeprefix("/v1/models/"))
    route = table.for_model(name)
    if route is None or route not in routes:
        return errors.model_not_found(name)
    return Answer(msgspec.json.encode(_model_entry(route)))


def _model_entry(route: Route) -> dict[str, str | int]:
    return {
        "id": route.public_name,
        "object": "model",
        "created": route.service.created,
        "owned_by": route.service.key.namespace,
    }
