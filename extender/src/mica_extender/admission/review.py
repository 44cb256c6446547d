"""AdmissionReview in and out. What the answer is, is decided in ``mutate``."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mica_extender.admission.mutate import Admitted
from mica_extender.admission.pod import Refused

_encode: Final = msgspec.json.Encoder().encode
_MAX_WARNING: Final = 250


class _Request(msgspec.Struct):
    uid: str
    object: dict[str, Any]
    namespace: str = ""


class _Review(msgspec.Struct):
    apiVersion: str
    kind: str
    request: _Request


@dataclass(frozen=True, slots=True)
class Review:
    """A question of the API server: may this pod be created, and how."""

    uid: str
    namespace: str
    pod: dict[str, Any]


class MalformedReview(ValueError):
    """The body is no AdmissionReview of a pod."""


_decode: Final = msgspec.json.Decoder(_Review).decode


def read_review(body: bytes) -> Review:
    """Decode a question. Raises MalformedReview."""
    try:
        review = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedReview(f"not an AdmissionReview: {error}") from error
    if review.apiVersion != "admission.k8s.io/v1" or review.kind != "AdmissionReview":
        raise MalformedReview(f"not an AdmissionReview of admission.k8s.io/v1: {review.apiVersion} {review.kind}")
    return Review(review.request.uid, review.request.namespace, review.request.object)


def allow(uid: str, admitted: Admitted) -> bytes:
    """Answer yes, with the changes as a JSON patch. Every change replaces a whole value, so ``add`` serves for all of them."""
    response: dict[str, Any] = {"uid": uid, "allowed": True}
    if admitted.changes:
        patch = [{"op": "add", "path": change.path, "value": change.value} for change in admitted.changes]
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(_encode(patch)).decode()}
    if admitted.warnings:
        response["warnings"] = [warning[:_MAX_WARNING] for warning in admitted.warnings]
    return _answer(response)


def deny(uid: str, refused: Refused | MalformedReview) -> bytes:
    """Answer no, in words."""
    return _answer({"uid": uid, "allowed": False, "status": {"code": 422, "reason": "Invalid", "message": str(refused)}})


def _answer(response: dict[str, Any]) -> bytes:
    return _encode({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
