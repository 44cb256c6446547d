"""What a request is for: read from its path and, where needed, from `model` in its JSON body.

Pure. The body is decoded once and only as far as `model`; everything else in it is the engine's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import httptools
import msgspec

from mica_router.core.errors import PD_DISAGG, ApiError, malformed_http, malformed_json, model_invalid

# What engines serve beside /v1/ and does nothing but inference, or tells that the model is up.
_FORWARDED_BESIDE_V1: Final = frozenset(
    {
        *("/tokenize", "/detokenize", "/health", "/rerank", "/v2/rerank", "/score", "/classify", "/pooling", "/version"),
        "/openapi.json",
    }
)
# Administration that an engine keeps under /v1/: it changes the model for everybody. And what only patched engines can do.
_ADMINISTRATION: Final = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter", PD_DISAGG})
_POST_ONLY: Final = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/score",
        "/v1/classify",
        "/v1/pooling",
        "/v1/moderations",
        "/v1/responses",
        "/v1/messages",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/audio/speech",
        "/rerank",
        "/v2/rerank",
        "/score",
        "/classify",
        "/pooling",
        "/tokenize",
        "/detokenize",
    }
)
_JSON_PATHS: Final = _POST_ONLY - {"/v1/audio/transcriptions", "/v1/audio/translations"}
_IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
# Stateless inference: running it twice costs time and changes nothing, so it may be repeated on another engine.
_STATELESS_PATHS: Final = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/score",
        "/v1/classify",
        "/v1/pooling",
        "/v1/moderations",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/rerank",
        "/v2/rerank",
        "/score",
        "/classify",
        "/pooling",
        "/v1/models",
        "/tokenize",
        "/detokenize",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parsed request target.

    `forward` is what the engine gets (path and query, raw); `path` is the same without the query. `namespace` and `name` are set
    when the path names the service.
    """

    path: str
    forward: bytes
    namespace: str | None = None
    name: str | None = None


_UNSET: Final = msgspec.UNSET


class BodyFields(msgspec.Struct, gc=False):
    """What routing reads of a JSON body. Only `model` has to be of its type; the rest is the engine's to refuse."""

    model: str | msgspec.UnsetType = msgspec.UNSET
    stream: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    num_decode_tokens: Any = msgspec.UNSET
    request_id_inference: Any = msgspec.UNSET
    prefill_then_swapout: Any = msgspec.UNSET
    generated_text: Any = msgspec.UNSET

    @property
    def private(self) -> bool:
        """Whether it has fields by which sysHAX's engines are driven, which clients may not (see `PRIVATE`)."""
        # One chain of comparisons: this is asked of every request.
        return not (
            self.num_decode_tokens is self.request_id_inference is self.prefill_then_swapout is self.generated_text is _UNSET
        )

    @property
    def streams(self) -> bool:
        """Whether a stream is asked for."""
        return self.stream is True

    @property
    def token_limit(self) -> int | None:
        """The most tokens that are asked for."""
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return limit if type(limit) is int else None


PRIVATE: Final = ("num_decode_tokens", "request_id_inference", "prefill_then_swapout", "generated_text")
"""With these a client of sysHAX's engines chooses the tier, or names the KV cache of another client's request."""

_FIELDS_DECODER: Final = msgspec.json.Decoder(BodyFields)
_OBJECT_DECODER: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


decode_fields: Final = _FIELDS_DECODER.decode
"""What a JSON object says to the router, or one of `UNREADABLE` is raised. See `read_body`."""
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_target(raw: bytes) -> Target | ApiError:
    """Split a request target (origin or absolute form)."""
    if raw.startswith(b"/"):
        path, mark, query = raw.partition(b"?")
    else:
        try:
            url = httptools.parse_url(raw)
        except httptools.HttpParserInvalidURLError:
            return malformed_http("the request target is not a URL")
        path, query = url.path or b"/", url.query or b""
        mark = b"?" if query else b""
    text = path.decode("latin-1")
    if not text.startswith("/models/"):
        return Target(path=text, forward=path + mark + query)
    parts = text.split("/", 4)
    if len(parts) < 5:
        return Target(path=text, forward=path + mark + query)
    rest = "/" + parts[4]
    return Target(
        path=rest,
        forward=rest.encode("latin-1") + mark + query,
        namespace=unquote(parts[2]),
        name=unquote(parts[3]),
    )


def read_body(body: bytes) -> BodyFields | ApiError:
    """What a JSON object says to the router. `model` may be unset; one that is empty counts as unset."""
    try:
        return _FIELDS_DECODER.decode(body)
    except msgspec.ValidationError:
        return model_invalid() if body.lstrip()[:1] == b"{" else malformed_json("it must be an object")
    except RecursionError:
        return malformed_json("it is nested too deeply")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return malformed_json(str(error))


def allowed_method(method: bytes, path: str) -> str | None:
    """The method that this path of OpenAI's API takes, if it is another one."""
    if path in _POST_ONLY:
        return None if method in (b"POST", b"OPTIONS") else "POST"
    if path == "/v1/models" or path.startswith("/v1/models/"):
        return None if method in _IDEMPOTENT else "GET"
    return None


def takes_json(method: bytes, path: str) -> bool:
    """Whether engines expect a JSON object as the body, however the path is spelt."""
    return method == b"POST" and unquote(path).rstrip("/") in _JSON_PATHS


def rename_model(body: bytes, *, model: str) -> bytes:
    """The same JSON object with another `model`; every other value is kept byte for byte.

    Needed when a client used a name that the engine does not know (`<namespace>/<name>`). `body` was accepted by `model_of`.
    """
    fields = _OBJECT_DECODER.decode(body)
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def is_forwarded(path: str) -> bool:
    """Whether engines get requests for this path.

    Their administration and their insight into other clients' requests (`/slots`, `/metrics`, `/props`, …) is not for clients. A
    path that climbs is refused, because what it leads to depends on who reads it.
    """
    meant = unquote(path)
    if any(part in (".", "..") for part in meant.replace("\\", "/").split("/")):
        return False
    return path in _FORWARDED_BESIDE_V1 or (path.startswith("/v1/") and meant.rstrip("/") not in _ADMINISTRATION)


def is_repeatable(method: bytes, path: str) -> bool:
    """Whether a request that was already sent may be sent again to another engine."""
    return method in _IDEMPOTENT or path in _STATELESS_PATHS
