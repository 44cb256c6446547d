"""CustomResourceDefinitions, generated from the pydantic models.

Pydantic emits JSON schema; the API server wants a *structural* schema: no references, no unions with null, no nulls or empty
collections in defaults. This module is that conversion plus what a schema cannot hold (names, columns, subresources). It writes
no file: ``make generate`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mica_api import names
from mica_api.models import InferenceService, VGPUNode, VGPUPool
from mica_api.models.common import Model

_DROPPED: Final = frozenset({"title", "discriminator", "$defs"})


class NotStructural(ValueError):
    """A model uses something that a structural schema cannot say."""


@dataclass(frozen=True, slots=True)
class Column:
    """Printer column; ``wide`` ones are shown by ``-o wide`` only."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False

    def to_wire(self) -> dict[str, Any]:
        """As in the CRD."""
        wide = {"priority": 1} if self.wide else {}
        return {"name": self.name, "type": self.type, "jsonPath": self.path, **wide}


@dataclass(frozen=True, slots=True)
class Kind:
    """One custom resource."""

    model: type[Model]
    plural: str
    short: tuple[str, ...]
    namespaced: bool
    columns: tuple[Column, ...]
    scale: Mapping[str, str] | None = None

    @property
    def crd_name(self) -> str:
        """Name of the CRD."""
        return f"{self.plural}.{names.GROUP}"


_READY = '.status.conditions[?(@.type=="Ready")]'
_AGE = Column("Age", ".metadata.creationTimestamp", "date")

KINDS: Final = (
    Kind(
        InferenceService,
        "inferenceservices",
        ("minf",),
        True,
        (
            Column("Model", ".spec.model.uri", wide=True),
            Column("Ready", f"{_READY}.status"),
            Column("Reason", f"{_READY}.reason"),
            Column("Replicas", ".status.readyReplicas", "integer"),
            Column("Desired", ".status.desiredReplicas", "integer"),
            Column("CPU", ".status.cpuReadyReplicas", "integer", wide=True),
            Column("URL", ".status.url"),
            _AGE,
        ),
        {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    ),
    Kind(
        VGPUPool,
        "vgpupools",
        ("vgp",),
        False,
        (
            Column("Nodes", ".status.nodes", "integer"),
            Column("GPUs", ".status.gpus", "integer"),
            Column("Slices", ".status.summary.slices"),
            Column("Cores", ".status.summary.cores"),
            Column("Memory", ".status.summary.memory"),
            Column("Mode", ".spec.mode", wide=True),
            Column("Max-Slices", ".spec.maxSlicesPerGPU", "integer", wide=True),
            Column("Memory-%", ".spec.memoryOvercommitPercent", "integer", wide=True),
            Column("Cores-%", ".spec.coresOvercommitPercent", "integer", wide=True),
            Column("Cordoned", ".status.cordoned", "integer", wide=True),
            Column("Node-Policy", ".spec.placement.node", wide=True),
            Column("GPU-Policy", ".spec.placement.gpu", wide=True),
            Column("Ready", f"{_READY}.status"),
            _AGE,
        ),
    ),
    Kind(
        VGPUNode,
        "vgpunodes",
        ("vgn",),
        False,
        (
            Column("Pool", ".spec.pool"),
            Column("GPUs", ".status.summary.gpus", "integer"),
            Column("Model", ".status.summary.model"),
            Column("Slices", ".status.summary.slices"),
            Column("Cores", ".status.summary.cores"),
            Column("Memory", ".status.summary.memory"),
            Column("Max-Slices", ".spec.maxSlicesPerGPU", "integer", wide=True),
            Column("Memory-%", ".spec.memoryOvercommitPercent", "integer", wide=True),
            Column("Cores-%", ".spec.coresOvercommitPercent", "integer", wide=True),
            Column("Exclusive", ".status.summary.exclusive", "integer", wide=True),
            Column("Cordoned", ".status.summary.cordoned", "integer", wide=True),
            Column("CPU-Milli", ".status.cpu.allocatableMilli", "integer", wide=True),
            Column("CPU-Other", ".status.cpu.requestedMilli", "integer", wide=True),
            Column("Driver", ".spec.driver.version", wide=True),
            Column("Simulated", ".spec.driver.simulated", "boolean", wide=True),
            Column("Ready", f"{_READY}.status"),
            _AGE,
        ),
    ),
)


def crd(kind: Kind) -> dict[str, Any]:
    """CustomResourceDefinition of a kind."""
    subresources: dict[str, Any] = {"status": {}}
    if kind.scale:
        subresources["scale"] = dict(kind.scale)
    name = kind.model.__name__
    version = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": structural_schema(kind.model)},
        "subresources": subresources,
        "additionalPrinterColumns": [c.to_wire() for c in kind.columns],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": kind.plural,
                "singular": name.lower(),
                "shortNames": list(kind.short),
                "categories": ["mica"],
            },
            "versions": [version],
        },
    }


def structural_schema(model: type[Model]) -> dict[str, Any]:
    """Structural OpenAPI v3 schema of a model. Raises NotStructural."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    schema: dict[str, Any] = _convert(raw, raw.get("$defs", {}))
    schema["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        **schema["properties"],
        "metadata": {"type": "object"},
    }
    schema["required"] = [field for field in schema.get("required", []) if field != "metadata"] or ["spec"]
    return {"type": "object", **schema}


def _convert(node: Any, defs: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_convert(item, defs) for item in node]
    if not isinstance(node, dict):
        return node
    node = _resolve(node, defs)
    converted = {key: _convert_value(key, value, defs) for key, value in node.items() if key not in _DROPPED}
    _drop_empty_default(converted)
    _rename_const(converted)
    _bounds(converted)
    if converted.get("additionalProperties") is False:
        del converted["additionalProperties"]
    return converted


def _convert_value(key: str, value: Any, defs: Mapping[str, Any]) -> Any:
    if key == "properties":
        return {name: _convert(schema, defs) for name, schema in value.items()}
    if key in ("items", "additionalProperties"):
        return _convert(value, defs)
    return value


def _resolve(node: dict[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    """Inline a reference and a union with null; keys beside them win."""
    while True:
        if "$ref" in node:
            rest = {key: value for key, value in node.items() if key != "$ref"}
            node = {**defs[node["$ref"].rsplit("/", 1)[-1]], **rest}
        elif "anyOf" in node:
            options = [option for option in node["anyOf"] if option.get("type") != "null"]
            if len(options) != 1:
                raise NotStructural(f"a union of several types is not structural: {node['anyOf']}")
            rest = {key: value for key, value in node.items() if key != "anyOf"}
            node = {**options[0], **rest}
        else:
            return node


def _drop_empty_default(node: dict[str, Any]) -> None:
    """Nulls are refused in defaults, and an empty collection would be stored in every object."""
    default = _without_empty(node.pop("default", None))
    if default not in (None, "", [], {}):
        node["default"] = default


def _without_empty(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    cleaned = {key: _without_empty(item) for key, item in value.items()}
    return {key: item for key, item in cleaned.items() if item not in (None, {}, [])}


def _rename_const(node: dict[str, Any]) -> None:
    if "const" in node:
        node["enum"] = [node.pop("const")]


def _bounds(node: dict[str, Any]) -> None:
    for key, target, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        if key in node:
            if node.get("type") != "integer":
                raise NotStructural(f"{key} on a {node.get('type')}: use an inclusive bound")
            node[target] = node.pop(key) + step
    if node.get("type") == "object" and "maxLength" in node:
        node["maxProperties"] = node.pop("maxLength")
    if node.get("type") == "array" and "maxLength" in node:
        node["maxItems"] = node.pop("maxLength")
