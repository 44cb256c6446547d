"""Errors that the router answers with, in OpenAI's shape.

Not here: how they are sent (`relay.connection`), and errors of engines, which pass through unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiError:
    """One refusal.

    `retry_after` is in whole seconds; `close` says that the connection cannot be used again; `allow` names the methods of a 405.
    """

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    retry_after: int | None = None
    close: bool = False
    allow: str | None = None


def _refused(
    status: int, *, code: str, message: str, param: str | None = None, close: bool = False, allow: str | None = None
) -> ApiError:
    """The request is at fault."""
    kind = "invalid_request_error"
    return ApiError(status=status, type=kind, code=code, message=message, param=param, close=close, allow=allow)


def _failed(status: int, *, code: str, message: str, retry_after: int | None = None, close: bool = False) -> ApiError:
    """The request may be as good as any."""
    return ApiError(status=status, type="server_error", code=code, message=message, retry_after=retry_after, close=close)


def _bad_request(code: str, message: str, *, param: str | None = None, close: bool = False) -> ApiError:
    return _refused(400, code=code, message=message, param=param, close=close)


def malformed_http(reason: str) -> ApiError:
    """What was sent is not HTTP/1.1 as RFC 9112 wants it; the bytes that follow cannot be trusted."""
    return _bad_request("malformed_http", f"The request is not valid HTTP/1.1: {reason}.", close=True)


def malformed_json(reason: str) -> ApiError:
    return _bad_request("malformed_json", f"The request body is not valid JSON: {reason}.")


def body_encoded(coding: str) -> ApiError:
    return _refused(
        415,
        code="content_encoding_unsupported",
        message=f"The request body is encoded as '{coding[:50]}'. Send it without Content-Encoding.",
    )


def transfer_coding_unsupported() -> ApiError:
    """RFC 9112 §6.1: a coding that is not understood. Where the body ends is known, what it says is not."""
    return _refused(
        501,
        code="transfer_coding_unsupported",
        message="The only Transfer-Encoding that is understood is 'chunked'. Send the body uncompressed.",
        close=True,
    )


def model_missing() -> ApiError:
    return _bad_request(
        "model_required",
        "No model is named: set the field 'model' to a string in the JSON body, "
        "or use the path /models/<namespace>/<name>/v1/....",
        param="model",
    )


def model_invalid() -> ApiError:
    return _bad_request("model_invalid", "The field 'model' must be a string.", param="model")


def form_model_alias(model: str, engine_model: str) -> ApiError:
    return _bad_request(
        "model_invalid",
        f"A form is forwarded as it is: write '{engine_model}' instead of '{model[:200]}'.",
        param="model",
    )


def model_not_found(model: str) -> ApiError:
    shown = model if len(model) <= 200 else model[:200] + "…"
    return _refused(
        404,
        code="model_not_found",
        message=f"The model '{shown}' does not exist here. GET /v1/models lists the models that do.",
        param="model",
    )


def path_not_found(path: str) -> ApiError:
    return _refused(
        404,
        code="path_not_found",
        message=f"Nothing is served at '{path[:200]}'. Use /v1/... or /models/<namespace>/<name>/v1/....",
    )


PD_DISAGG: Final = "/v1/chat/pd_disagg"


def path_not_forwarded(path: str) -> ApiError:
    if path.rstrip("/") == PD_DISAGG:
        return _bad_request(
            "pd_disagg_unsupported",
            f"'{PD_DISAGG}' moves KV caches between engines that are patched for it, which Mica does not do. "
            "Send the request to /v1/chat/completions: GPU and CPU engines share such requests by themselves.",
        )
    return _refused(
        404,
        code="path_not_forwarded",
        message=f"'{path[:200]}' is not forwarded to engines: /v1/..., /tokenize, /detokenize and /health are. "
        "An engine's administration can be reached at its pod only.",
    )


def head_too_large(limit: int) -> ApiError:
    return _refused(
        431,
        code="headers_too_large",
        message=f"The request line and headers are larger than {limit} bytes.",
        close=True,
    )


def body_too_large(limit: int) -> ApiError:
    return _refused(
        413,
        code="body_too_large",
        message=f"The request body is larger than {limit} bytes.",
        close=True,
    )


def request_timeout(what: str, seconds: float) -> ApiError:
    return _refused(
        408,
        code="request_timeout",
        message=f"The {what} did not arrive within {seconds:g} seconds.",
        close=True,
    )


def no_ready_engine(model: str, *, retry_after: int) -> ApiError:
    return _failed(
        503,
        code="no_ready_engine",
        message=f"No engine of the model '{model}' is ready. Try again in {retry_after} s.",
        retry_after=retry_after,
    )


def overloaded(limit: int, *, retry_after: int, close: bool) -> ApiError:
    return _failed(
        503,
        code="overloaded",
        message=f"Requests that are being served fill the {limit} bytes that the router may hold. Try again in {retry_after} s.",
        retry_after=retry_after,
        close=close,
    )


def engine_unreachable(model: str, *, retry_after: int) -> ApiError:
    return _failed(
        503,
        code="engine_unreachable",
        message=f"No engine of the model '{model}' answered. Try again in {retry_after} s.",
        retry_after=retry_after,
    )


def engine_timeout(model: str, seconds: float) -> ApiError:
    return _failed(
        504,
        code="engine_timeout",
        message=f"The engine of the model '{model}' sent nothing for {seconds:g} seconds.",
    )


def engine_lost(model: str, reason: str) -> ApiError:
    """Told inside a stream whose engine died."""
    return _failed(
        502,
        code="engine_lost",
        message=f"The engine of the model '{model}' was lost in the middle of the answer ({reason}). Send the request again.",
    )


def queue_full(model: str, limit: int, *, retry_after: int) -> ApiError:
    return ApiError(
        status=429,
        type="rate_limit_error",
        code="queue_full",
        message=f"{limit} requests wait for an engine of the model '{model}' already. Try again in {retry_after} s.",
        retry_after=retry_after,
    )


def queue_timeout(model: str, seconds: float, *, retry_after: int) -> ApiError:
    return _failed(
        503,
        code="queue_timeout",
        message=f"No engine of the model '{model}' could take the request within {seconds:g} s. Try again in {retry_after} s.",
        retry_after=retry_after,
    )


def router_ends() -> ApiError:
    """Told inside a stream that outlasted the drain of a router that is restarted."""
    return _failed(
        503,
        code="router_restarting",
        message="The router is being restarted and could not wait for the end of this answer. Send the request again.",
        retry_after=1,
    )


def total_timeout(model: str, seconds: float) -> ApiError:
    return _failed(
        504,
        code="total_timeout",
        message=f"The answer of the model '{model}' was not complete within {seconds:g} seconds.",
    )


def method_not_allowed(method: str, path: str, *, allowed: str) -> ApiError:
    return _refused(
        405,
        code="method_not_allowed",
        message=f"{method[:32]} is not allowed at '{path[:200]}'; use {allowed}.",
        allow=allowed,
    )


def invalid_api_key(model: str) -> ApiError:
    return _refused(
        401,
        code="invalid_api_key",
        message=f"The model '{model}' needs an API key that is not the one given. Send it as 'Authorization: Bearer KEY'.",
    )


def engine_transfer_coding(model: str) -> ApiError:
    return _failed(
        502,
        code="engine_protocol_error",
        message=f"The engine of the model '{model}' sent its answer in a transfer coding other than 'chunked', which nobody "
        "asked for. Switch compression off in the engine or the proxy before it (Content-Encoding is passed on).",
    )


def answer_too_long(model: str, limit: int) -> ApiError:
    return _failed(
        502,
        code="answer_too_long",
        message=f"The answer of the model '{model}' takes more than the {limit} bytes that the router may keep to make it whole. "
        'Ask for it with "stream": true, or for fewer tokens.',
    )


def internal_error() -> ApiError:
    """A fault of the router itself; its log has the trace."""
    return _failed(
        500,
        code="internal_error",
        message="The router failed at this request. Send it again; if it fails again, the router's log says why.",
    )


def engine_protocol_error(model: str) -> ApiError:
    return _failed(
        502,
        code="engine_protocol_error",
        message=f"The engine of the model '{model}' sent an answer that is not valid HTTP/1.1.",
    )


def _content(error: ApiError, **more: str) -> bytes:
    told = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return msgspec.json.encode({**more, "error": told})


NAMED_EVENT: Final = b"event: error\n"
"""Begins an error event for clients of `/v1/messages`, who pass over events without a name they know."""


def render_event(error: ApiError, *, named: bool = False) -> bytes:
    """The error as one server-sent event, which OpenAI's clients raise; those of `/v1/messages` raise one that is `named`."""
    return b"%bdata: %b\n\n" % (NAMED_EVENT, _content(error, type="error")) if named else b"data: %b\n\n" % _content(error)


def render_error(error: ApiError, *, close: bool, head_only: bool = False) -> bytes:
    """The whole HTTP response, head and JSON body (no body in answer to HEAD)."""
    body = _content(error)
    extra = b"" if error.retry_after is None else b"Retry-After: %d\r\n" % error.retry_after
    if error.allow is not None:
        extra += b"Allow: %b\r\n" % error.allow.encode()
    if error.status == 401:
        extra += b"WWW-Authenticate: Bearer\r\n"
    return render_json(error.status, body, close=close or error.close, extra=extra, head_only=head_only)


def render_json(status: int, body: bytes, *, close: bool, extra: bytes = b"", head_only: bool = False) -> bytes:
    """A JSON response of the router's own. `extra` is whole header lines, each ended by CRLF."""
    return b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s%s\r\n%s" % (
        status,
        HTTPStatus(status).phrase.encode(),
        len(body),
        extra,
        b"Connection: close\r\n" if close else b"",
        b"" if head_only else body,
    )
