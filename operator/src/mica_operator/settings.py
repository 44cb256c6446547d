"""Settings of the operator, from the environment (``MICA_<FIELD>``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mica_runtime.settings import Settings

EngineType = Literal["llamacpp", "vllm"]


class OperatorSettings(Settings):
    """``router_service`` is ``namespace/name`` of the router's Service; ``engine_images`` maps engine types to images (JSON).

    ``router_admin_port``: where router pods tell the demand.
    ``resync_s``: seconds after which every object is looked at again although nothing happened.
    """

    router_service: Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")]
    engine_images: dict[EngineType, str] = Field(default_factory=dict)
    kubeconfig: Path | None = None
    router_admin_port: Annotated[int, Field(ge=1, le=65535)] = 8080
    admin_host: str = "0.0.0.0"
    admin_port: Annotated[int, Field(ge=1, le=65535)] = 8080
    resync_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
