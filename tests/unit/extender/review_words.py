"""What a raw ASGI application answers to one admission review, without a server."""

from __future__ import annotations

import json
from typing import Any

from mica_extender.admission.app import AdmissionApp


async def review_answer(app: AdmissionApp, stage: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """Status, and the response in the review that came back."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "path": f"/{stage}", "method": "POST"}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])["response"]
