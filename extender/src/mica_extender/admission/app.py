"""The webhook server: a raw ASGI application with ``/mutate`` and ``/validate``."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final

from mica_extender.admission.mutate import Admitted, mutate, validate
from mica_extender.admission.pod import Body, Refusal, Refused
from mica_extender.admission.review import MalformedReview, allow, deny, read_review
from mica_extender.admission.rules import Rules
from mica_extender.asgi import Receive, Scope, Send, TooLarge, answer, read_body
from mica_extender.metrics import Metrics
from mica_runtime.logging import get_logger

_log = get_logger(__name__)
MAX_BODY: Final = 8 * 2**20
"""A pod is at most 3 MiB in the API server; a review holds it once on creation."""


class AdmissionApp:
    """ASGI application. ``rules`` is asked at every review, because the cards of the cluster change."""

    def __init__(self, *, rules: Callable[[], Rules], metrics: Metrics) -> None:
        self._rules = rules
        self._metrics = metrics
        self._stages: dict[str, Callable[[Body, Rules], Admitted]] = {"mutate": mutate, "validate": _validated}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one review."""
        if scope["type"] != "http":
            return
        stage = scope["path"].strip("/")
        if stage not in self._stages or scope["method"] != "POST":
            await answer(send, status=404, body=b"POST /mutate or /validate\n", content_type=b"text/plain")
            return
        try:
            body = await read_body(receive, limit=MAX_BODY)
        except TooLarge as error:
            await answer(send, status=413, body=str(error).encode(), content_type=b"text/plain")
            return
        started = perf_counter()
        reply = self._review(stage, body)
        self._metrics.took("admission", started)
        await answer(send, body=reply)

    def _review(self, stage: str, body: bytes) -> bytes:
        try:
            review = read_review(body)
        except MalformedReview as error:
            return deny("", error)
        try:
            return allow(review.uid, self._stages[stage](review.pod, self._rules()))
        except Refused as refused:
            self._metrics.denied.labels(stage, str(refused.reason)).inc()
            _log.info("pod refused", stage=stage, namespace=review.namespace, reason=str(refused))
            return deny(review.uid, refused)
        except Exception as error:
            _log.exception("review failed", stage=stage, namespace=review.namespace)
            self._metrics.denied.labels(stage, str(Refusal.INTERNAL_ERROR)).inc()
            words = f"internal error of Mica's webhook: {type(error).__name__}"
            return deny(review.uid, Refused(words, Refusal.INTERNAL_ERROR))


def _validated(pod: Body, rules: Rules) -> Admitted:
    validate(pod, rules)
    return Admitted()
