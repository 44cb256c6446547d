"""Routes from a YAML or JSON file: its format, its validation and its conversion to services. Pure; reading is in `file`.

models:
  - name: chat                  # service name, and model name unless `model` says otherwise
    namespace: default          # optional
    model: my-org/chat-7b       # optional: the name that clients ask for and engines know
    endpoints: [http://127.0.0.1:8001, http://10.0.0.7:8000]
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mica_router.core.engines import Endpoint, Engine
from mica_router.core.routes import Service, ServiceKey
from mica_router.ports import RouteSourceError

_Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


def _parse_endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("must start with http:// or https://")
    if not parts.hostname or parts.username or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise ValueError("must be http[s]://HOST:PORT and nothing more")
    if parts.port == 0:
        raise ValueError("port 0 cannot be connected to")
    return url


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: _Name
    namespace: _Name = "default"
    model: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    endpoints: list[Annotated[str, AfterValidator(_parse_endpoint)]] = []

    def service(self, *, created: int) -> Service:
        return Service(
            key=ServiceKey(self.namespace, self.name),
            model=self.model or self.name,
            created=created,
            engines=tuple(Engine(endpoint=endpoint) for endpoint in dict.fromkeys(map(_endpoint, self.endpoints))),
        )


class _RoutesFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    models: list[_Model]

    @model_validator(mode="after")
    def _unique(self) -> Self:
        services = Counter(f"{model.namespace}/{model.name}" for model in self.models)
        names = Counter(model.model or model.name for model in self.models)
        for what, counts in (("service", services), ("model", names)):
            twice = sorted(name for name, count in counts.items() if count > 1)
            if twice:
                raise ValueError(f"{what} {', '.join(twice)} is listed more than once")
        return self


def _endpoint(url: str) -> Endpoint:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return Endpoint(parts.hostname or "", parts.port or (443 if tls else 80), tls)


def parse_routes_file(text: str, *, created: int) -> tuple[Service, ...]:
    """Services of a routes file. `created` (seconds since the epoch) is shown in `/v1/models`.

    Raises RouteSourceError that names the place and what is wrong there.
    """
    try:
        content: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RouteSourceError(f"not valid YAML or JSON: {error}") from error
    try:
        routes = _RoutesFile.model_validate(content)
    except ValidationError as error:
        raise RouteSourceError("; ".join(_explain(entry) for entry in error.errors())) from error
    return tuple(model.service(created=created) for model in routes.models)


def _explain(entry: Any) -> str:
    place = ".".join(str(part) for part in entry["loc"])
    return f"{place or 'file'}: {entry['msg']}"
