"""The whole surface through a router process: by the official client, and what that does not know by plain requests."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from .conftest import StartRouter
from .small_engine import SmallEngine, serving

pytestmark = pytest.mark.timeout(300)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "chat",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "output": [
        {
            "type": "message",
            "id": "m1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "wörld", "annotations": []}],
        }
    ],
}
ANSWERS: dict[str, dict[str, Any]] = {
    "/v1/completions": {
        "id": "c",
        "object": "text_completion",
        "created": 1,
        "model": "chat",
        "choices": [{"index": 0, "text": "wörld", "finish_reason": "stop", "logprobs": None}],
        "usage": USAGE,
    },
    "/v1/embeddings": {
        "object": "list",
        "model": "chat",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    },
    "/v1/responses": RESPONSE,
    "/v1/rerank": {"results": [{"index": 1, "relevance_score": 0.9}]},
    "/v1/score": {"data": [{"index": 0, "score": 0.5}]},
    "/score": {"data": [{"index": 0, "score": 0.5}]},
    "/tokenize": {"tokens": [1, 2, 3]},
    "/v1/messages": {"type": "message", "content": []},
    "/v1/an/endpoint/of/next/year": {"new": True},
}
EVENTS: dict[str, list[tuple[str, str]]] = {
    "/v1/completions": [
        ("", json.dumps(ANSWERS["/v1/completions"])),
        ("", json.dumps(ANSWERS["/v1/completions"])),
        ("", "[DONE]"),
    ],
    "/v1/responses": [
        ("response.created", json.dumps({"type": "response.created", "sequence_number": 0, "response": RESPONSE})),
        (
            "response.output_text.delta",
            json.dumps(
                {
                    "type": "response.output_text.delta",
                    "sequence_number": 1,
                    "item_id": "m1",
                    "output_index": 0,
                    "content_index": 0,
                    "delta": "wörld",
                    "logprobs": [],
                }
            ),
        ),
        ("response.completed", json.dumps({"type": "response.completed", "sequence_number": 2, "response": RESPONSE})),
    ],
}


class Surface(SmallEngine):
    """Answers what is asked for, and notes it."""

    seen: list[tuple[str, bytes]]

    def do_GET(self) -> None:
        self.say(b"{}")

    def do_POST(self) -> None:
        body = self.body()
        self.seen.append((self.path, body))
        if json.loads(body).get("stream"):
            said = "".join((f"event: {name}\n" if name else "") + f"data: {data}\n\n" for name, data in EVENTS[self.path])
            self.say(said.encode(), kind="text/event-stream")
        else:
            self.say(json.dumps(ANSWERS[self.path]).encode())


@pytest.fixture
def surface() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    seen: list[tuple[str, bytes]] = []
    with serving(type("Noting", (Surface,), {"seen": seen})) as port:
        yield f"http://127.0.0.1:{port}", seen


def completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="chat", prompt="Hello")
    assert whole.choices[0].text == "wörld"
    assert whole.usage is not None
    assert whole.usage.total_tokens == 5
    assert [one.choices[0].text for one in client.completions.create(model="chat", prompt="Hello", stream=True)] == ["wörld"] * 2


def embeddings(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model="chat", input=["a"], encoding_format="float")
    assert (found.data[0].embedding, found.usage.prompt_tokens) == ([0.5, -0.25], 3)


def responses(client: openai.OpenAI) -> None:
    assert client.responses.create(model="chat", input="Hello").output_text == "wörld"
    kinds = [event.type for event in client.responses.create(model="chat", input="Hello", stream=True)]
    assert kinds == ["response.created", "response.output_text.delta", "response.completed"]


@pytest.mark.parametrize("use", [completions, embeddings, responses])
def test_the_official_client_is_served(
    start_router: StartRouter, surface: tuple[str, list[tuple[str, bytes]]], use: Callable[[openai.OpenAI], None]
) -> None:
    router = start_router(f"models:\n  - {{name: chat, endpoints: ['{surface[0]}']}}\n")
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="unused", max_retries=0) as client:
        use(client)
    assert all(json.loads(body)["model"] == "chat" for _, body in surface[1])


def test_everything_else_passes_as_it_is(start_router: StartRouter, surface: tuple[str, list[tuple[str, bytes]]]) -> None:
    url, seen = surface
    router = start_router(f"models:\n  - {{name: chat, endpoints: ['{url}']}}\n")
    for path, expected in ANSWERS.items():
        body = b'{ "model":"chat",  "documents": ["b\\u00e9"],"unknown_to_routers":1e400 }'
        request = urllib.request.Request(router.url + path, data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.loads(answer.read()) == expected
        assert seen.pop() == (path, body)
