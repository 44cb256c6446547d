"""Form of a pin file: the decision of one pod as first verified. Codec only; who writes it where is ``slices``."""

from __future__ import annotations

import json
from typing import Any, Final

from mica_api.allocation import GPUShare
from mica_api.compute import compute_annotations, read_compute
from mica_device_plugin.values import Pin, PinnedContainer

_VERSION: Final = 1


class InvalidPin(ValueError):
    """The file is not a pin of ours."""


def encode_pin(pin: Pin) -> bytes:
    """Content of the file."""
    containers = [
        {
            "name": c.name,
            "slots": list(c.slots),
            "gpus": [{"uuid": s.uuid, "mem": s.memory_mib, "cores": s.cores} for s in c.shares],
        }
        for c in pin.containers
    ]
    value = {
        "v": _VERSION,
        "uid": pin.pod_uid,
        "namespace": pin.namespace,
        "pod": pin.pod,
        "containers": containers,
        "compute": compute_annotations(pin.compute),
    }
    return (json.dumps(value, indent=1) + "\n").encode()


def decode_pin(data: bytes) -> Pin:
    """Inverse of ``encode_pin``. Raises InvalidPin."""
    try:
        raw: Any = json.loads(data)
        if raw["v"] != _VERSION:
            raise InvalidPin(f"version {raw['v']!r}, known is {_VERSION}")
        containers = tuple(
            PinnedContainer(
                name=str(c["name"]),
                shares=tuple(GPUShare(str(g["uuid"]), int(g["mem"]), int(g["cores"])) for g in c["gpus"]),
                slots=tuple(str(s) for s in c["slots"]),
            )
            for c in raw["containers"]
        )
        compute = read_compute(dict(raw.get("compute", {})))
        return Pin(str(raw["uid"]), str(raw["namespace"]), str(raw["pod"]), containers, compute)
    except InvalidPin:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidPin(f"malformed: {error!r}") from error
