"""What becomes of a request: forwarded to a service, answered here, or refused. Pure: request and table in, decision out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

import msgspec

from mica_router.core import errors
from mica_router.core.amend import with_defaults, with_model, without_private_fields
from mica_router.core.errors import ApiError
from mica_router.core.features import Features
from mica_router.core.keys import may_use
from mica_router.core.multipart import model_of_form
from mica_router.core.plans import HeadNotes, Plan
from mica_router.core.request import Request
from mica_router.core.routes import Route, RouteTable
from mica_router.core.target import (
    UNREADABLE,
    BodyFields,
    Target,
    allowed_method,
    decode_fields,
    is_forwarded,
    parse_target,
    read_body,
    rename_model,
    takes_json,
)

_READS = frozenset({b"GET", b"HEAD"})
_NO_FIELDS = BodyFields()
_LONGEST_KEPT = 1024
# What a named tuple's own constructor comes to, at half of its cost.
_new = tuple.__new__


@dataclass(frozen=True, slots=True)
class Answer:
    """The router's own JSON answer, status 200."""

    body: bytes


def dispatch(request: Request, table: RouteTable) -> Features | Answer | ApiError:
    """Decide one request. Path beats body; `/v1/models` is answered from the table, engines or not."""
    notes = request.notes
    if notes is not None and notes.table is table:
        features = _as_planned(request, notes)
        if features is not None:
            return features
    # What is long hardly repeats, and would fill the memory of those that do.
    understand = _understand if len(request.target) <= _LONGEST_KEPT else _understand.__wrapped__
    target = understand(request.method, request.target)
    if isinstance(target, ApiError):
        return target
    if target.namespace is not None and target.name is not None:
        return _by_path(request, target, table)
    if request.method in _READS:
        return (
            _models(request, target.path, table.listed, table)
            or _by_default(request, target, table)
            or errors.path_not_found(target.path)
        )
    return _by_body(request, target, table)


def _as_planned(request: Request, notes: HeadNotes) -> Features | None:
    """What became of a request with this head and this model before, if its body passes unchanged as well."""
    body = request.body
    try:
        fields = decode_fields(body)
    except UNREADABLE:
        return None  # for the long way to say why
    plan = notes.plans.get(fields.model)
    if plan is None or fields.private:
        return None
    limit = fields.max_completion_tokens
    limit = fields.max_tokens if limit is None else limit
    limit = limit if type(limit) is int else None
    streams = fields.stream is True
    made = (plan.route, request.method, plan.path, plan.target, request.headers, body, streams, limit, request.lookup, plan)
    return _new(Features, made)


@lru_cache(maxsize=1024)
def _understand(method: bytes, raw: bytes) -> Target | ApiError:
    """What a request line asks for: clients send the same one again and again."""
    target = parse_target(raw)
    if isinstance(target, ApiError):
        return target
    allowed = allowed_method(method, target.path)
    if allowed is not None:
        return errors.method_not_allowed(method.decode("latin-1"), target.path, allowed=allowed)
    return target


@lru_cache(maxsize=1024)
def _is_forwarded_cached(path: str) -> bool:
    return is_forwarded(path)


def _is_forwarded(path: str) -> bool:
    return _is_forwarded_cached(path) if len(path) <= _LONGEST_KEPT else is_forwarded(path)


def _by_path(request: Request, target: Target, table: RouteTable) -> Features | Answer | ApiError:
    route = table.for_path(namespace=target.namespace or "", name=target.name or "")
    if route is None:
        return errors.model_not_found(f"{target.namespace}/{target.name}")
    if not _is_forwarded(target.path):
        return errors.path_not_forwarded(target.path)
    if request.method in _READS:
        listed = tuple(entry for entry in table.listed if entry.service.key == route.service.key)
        answer = _models(request, target.path, listed, table)
        if answer is not None:
            return answer
    json = takes_json(request.method, target.path)
    if not json and not request.body.startswith(b"{"):
        return _forward(request, target, route, table=table, fields=_NO_FIELDS, used_name=None)
    fields = read_body(request.body)
    if isinstance(fields, ApiError):
        # What the router cannot read, an engine with a more forgiving parser might: private fields would get through.
        return (
            _unreadable(request, fields)
            if json
            else _forward(request, target, route, table=table, fields=_NO_FIELDS, used_name=None)
        )
    named = table.for_model(fields.model) if isinstance(fields.model, str) else None
    if named is None or named.service.key != route.service.key:
        return _forward(request, target, route, table=table, fields=fields, used_name=None)
    return _forward(request, target, named, table=table, fields=fields, used_name=fields.model or None)


def _by_body(request: Request, target: Target, table: RouteTable) -> Features | ApiError:
    if not _is_forwarded(target.path):
        return errors.path_not_forwarded(target.path)
    form = model_of_form(request)
    # Some engines read JSON whatever its type is said to be: a path for JSON takes no form.
    if form is not None and not takes_json(request.method, target.path):
        return _by_form(request, target, table, model=form)
    fields = read_body(request.body)
    if isinstance(fields, ApiError):
        return _unreadable(request, fields)
    if not fields.model:
        if table.default is None:
            return errors.model_missing()
        return _forward(request, target, table.default, table=table, fields=fields, used_name=fields.model)
    route = table.for_model(fields.model)
    if route is None:
        return errors.model_not_found(fields.model)
    return _forward(request, target, route, table=table, fields=fields, used_name=fields.model)


def _unreadable(request: Request, error: ApiError) -> ApiError:
    coding = request.lookup.get(b"content-encoding", b"").strip().lower()
    return error if coding in (b"", b"identity") else errors.body_encoded(coding.decode("latin-1"))


def _by_form(request: Request, target: Target, table: RouteTable, *, model: str) -> Features | ApiError:
    """An upload names its model in a form. It is forwarded as it is, so the name must be the one that engines know."""
    route = table.for_model(model) if model else table.default
    if route is None:
        return errors.model_not_found(model) if model else errors.model_missing()
    if model and model != route.engine_model:
        return errors.form_model_alias(model, route.engine_model)
    return _forward(request, target, route, table=table, fields=_NO_FIELDS, used_name=None)


def _by_default(request: Request, target: Target, table: RouteTable) -> Features | ApiError | None:
    """A read that says nothing of a model; None where there is no default one or engines do not get such requests."""
    if table.default is None or not is_forwarded(target.path):
        return None
    return _forward(request, target, table.default, table=table, fields=_NO_FIELDS, used_name=None)


def _forward(
    request: Request,
    target: Target,
    route: Route,
    *,
    table: RouteTable,
    fields: BodyFields,
    used_name: str | msgspec.UnsetType | None,
) -> Features | ApiError:
    """`used_name`: the name in the body that led here, UNSET where there is none; one that engines do not know is replaced."""
    keys = route.service.routing.api_keys
    if keys and not may_use(keys, request):
        return errors.invalid_api_key(route.public_name)
    body, limit = request.body, fields.token_limit
    if fields.private:
        body = without_private_fields(body)
    if used_name is not None and used_name != route.engine_model:
        missing = used_name is msgspec.UNSET
        body = with_model(body, model=route.engine_model) if missing else rename_model(body, model=route.engine_model)
    defaults = route.service.routing.defaults
    if defaults is not None and fields is not _NO_FIELDS:
        body, filled = with_defaults(body, target.path, defaults)
        limit = limit if filled is None else filled
    notes, plan = request.notes, None
    # Nothing but the name of the model was asked of the body, if the body is JSON in any case and stays as it is.
    if notes is not None and body is request.body and defaults is None and takes_json(request.method, target.path):
        plan = Plan(route, target.path, target.forward)
        notes.note(table, fields.model, plan)
    return Features(
        route,
        request.method,
        target.path,
        target.forward,
        request.headers,
        body,
        fields.streams,
        limit,
        request.lookup,
        plan,
    )


def _models(request: Request, path: str, routes: tuple[Route, ...], table: RouteTable) -> Answer | ApiError | None:
    """Models that the caller may use; those that ask for a key are hidden from who does not have it."""
    if path == "/v1/models":
        shown = [route for route in routes if _may_see(request, route)]
        return Answer(msgspec.json.encode({"object": "list", "data": [_model_entry(route) for route in shown]}))
    if not path.startswith("/v1/models/"):
        return None
    name = unquote(path.removeprefix("/v1/models/"))
    route = table.for_model(name)
    if route is None or route.service.key not in {entry.service.key for entry in routes} or not _may_see(request, route):
        return errors.model_not_found(name)
    return Answer(msgspec.json.encode(_model_entry(route)))


def _may_see(request: Request, route: Route) -> bool:
    keys = route.service.routing.api_keys
    return not keys or may_use(keys, request)


def _model_entry(route: Route) -> dict[str, str | int | None]:
    entry: dict[str, str | int | None] = {
        "id": route.public_name,
        "object": "model",
        "created": route.service.created,
        "owned_by": route.service.key.namespace,
    }
    if route.engine_model != route.service.model:
        entry["root"] = route.engine_model
        entry["parent"] = route.service.model
    return entry
