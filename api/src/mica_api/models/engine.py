"""Model of an engine: the program that serves a model, and what its pods get beside the slice."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from mica_api.durations import DURATION_PATTERN
from mica_api.models.common import Model, map_list, rule

_QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
_PATH_PATTERN = r"^/[^:]*$"

Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value),
    Field(pattern=_QUANTITY_PATTERN, max_length=32),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": _QUANTITY_PATTERN, "maxLength": 32}),
]
"""An amount of a resource: 500m, 4, 8Gi. A number is read as its text."""

Duration = Annotated[str, Field(pattern=DURATION_PATTERN, min_length=2, max_length=32)]
"""500ms, 2s, 1m30s, 2h."""


class EnvVar(Model):
    """Literal environment variable of the engine."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
            json_schema_extra={
                "x-kubernetes-validations": [
                    rule(
                        "!(self in ['LD_PRELOAD', 'LD_AUDIT', 'GLIBC_TUNABLES'])",
                        "LD_PRELOAD, LD_AUDIT and GLIBC_TUNABLES are not allowed in containers on GPU slices; remove them",
                    )
                ]
            },
        ),
    ]
    value: Annotated[str, Field(max_length=4096)] = ""


class EngineResources(Model):
    """CPU and memory of the engine's container, as in a pod. Slices are asked for in spec.slice."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    f"!has(self.{side}) || self.{side}.all(key, key in ['cpu', 'memory', 'ephemeral-storage'])",
                    f"engine.resources.{side} takes cpu, memory and ephemeral-storage; GPU slices are asked for in spec.slice",
                )
                for side in ("requests", "limits")
            ]
        }
    )

    requests: Annotated[dict[str, Quantity] | None, Field(max_length=3)] = None
    limits: Annotated[dict[str, Quantity] | None, Field(max_length=3)] = None


class EmptyDir(Model):
    """A directory that lives as long as the replica."""

    medium: Annotated[Literal["Memory"] | None, Field(description="Memory: in RAM, for example for /dev/shm.")] = None
    size_limit: Quantity | None = None


class ClaimRef(Model):
    """A PersistentVolumeClaim of the same namespace."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253)]


class Volume(Model):
    """A directory of the engine's container. Host paths are not offered: they would reach around the rights of the user."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "has(self.emptyDir) != has(self.persistentVolumeClaim)",
                    "a volume is either emptyDir or persistentVolumeClaim",
                )
            ]
        }
    )

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", max_length=63)]
    mount_path: Annotated[str, Field(pattern=_PATH_PATTERN, max_length=512)]
    read_only: bool = False
    empty_dir: EmptyDir | None = None
    persistent_volume_claim: ClaimRef | None = None

    def source(self) -> dict[str, Any]:
        """The volume of a pod."""
        if self.persistent_volume_claim is not None:
            claim = {"claimName": self.persistent_volume_claim.claim_name}
            return {"name": self.name, "persistentVolumeClaim": {**claim, "readOnly": True} if self.read_only else claim}
        return {"name": self.name, "emptyDir": self.empty_dir.to_wire() if self.empty_dir else {}}


class EngineSpec(Model):
    """The program that serves the model."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.type != 'custom' || has(self.image)",
                    "engine.image is required for engine type custom",
                ),
                rule(
                    "self.type == 'custom' || !has(self.command)",
                    "engine.command may be set for engine type custom only",
                ),
            ]
        }
    )

    type: Annotated[
        Literal["llamacpp", "vllm", "custom"],
        Field(description="llamacpp and vllm get the arguments for model, name and port; custom gets only args."),
    ] = "llamacpp"
    image: Annotated[
        str | None,
        Field(min_length=1, max_length=512, description="Default: the chart's image for the type."),
    ] = None
    command: Annotated[list[Annotated[str, Field(max_length=1024)]] | None, Field(max_length=16)] = None
    args: Annotated[
        list[Annotated[str, Field(max_length=1024)]] | None,
        Field(max_length=128, description="Appended to the arguments of the type."),
    ] = None
    env: Annotated[list[EnvVar] | None, Field(max_length=64, json_schema_extra=map_list("name"))] = None
    port: Annotated[int, Field(ge=1, le=65535, description="HTTP port of the engine.")] = 8000
    resources: Annotated[EngineResources | None, Field(description="CPU and memory of each replica.")] = None
    volumes: Annotated[
        list[Volume] | None,
        Field(max_length=16, json_schema_extra=map_list("name"), description="For weights and caches."),
    ] = None
    max_in_flight: Annotated[
        int | None,
        Field(
            ge=1,
            le=100_000,
            description="Most requests that the router has at one replica; further ones wait in the router. Default: no bound.",
        ),
    ] = None
    drain: Annotated[
        Duration,
        Field(
            description="How long a replica that is taken away goes on serving, and holds its slice, before it is asked to end. "
            "Longer answers are cut, or resumed where that is possible."
        ),
    ] = "30s"
