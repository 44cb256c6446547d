"""Everything that clients say goes to llama.cpp and back; each generated token waits for the GPU before it is passed on."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from gpu import Pace

OpenStream = Callable[[], AbstractContextManager[Pace]]

_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "content-length", "host", "expect"}
)
_MAX_BODY: Final = 64 * 1024 * 1024


def tokens_of_event(line: bytes) -> int:
    """How many launches an SSE line stands for: one if it carries text, none for anything else."""
    if not line.startswith(b"data: {"):
        return 0
    choices = json.loads(line[len(b"data: ") :]).get("choices", ())
    return int(any(choice.get("text") or choice.get("delta", {}).get("content") for choice in choices))


def tokens_of_answer(body: bytes) -> int:
    """How many tokens a whole answer holds, by its own account."""
    try:
        usage = json.loads(body).get("usage") or {}
    except (ValueError, AttributeError):
        return 0
    return int(usage.get("completion_tokens", 0))


class Handler(BaseHTTPRequestHandler):
    """One client connection. The server it runs in is a `Proxy`."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        """Pass on."""
        self._relay()

    def do_POST(self) -> None:
        """Pass on."""
        self._relay()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """No line per request."""

    def _relay(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > _MAX_BODY or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self.send_error(411, "send the body with a Content-Length")
            return
        body = self.rfile.read(int(length)) if int(length) else None
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        engine = http.client.HTTPConnection(*self.server.engine)
        try:
            engine.request(self.command, self.path, body=body, headers=headers)
            self._answer(engine.getresponse())
        except ConnectionError:
            self.close_connection = True  # the client left; closing the other side stops the generation
        finally:
            engine.close()

    def _answer(self, answer: http.client.HTTPResponse) -> None:
        streaming = answer.getheader("Content-Type", "").startswith("text/event-stream")
        body = b"" if streaming else self._whole(answer)
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header(*(("Transfer-Encoding", "chunked") if streaming else ("Content-Length", str(len(body)))))
        self.end_headers()
        if streaming:
            self._stream(answer)
        else:
            self.wfile.write(body)

    def _whole(self, answer: http.client.HTTPResponse) -> bytes:
        body = answer.read()
        tokens = tokens_of_answer(body) if answer.status == 200 else 0
        if tokens:
            with self.server.open_stream() as pace:
                for _ in range(tokens):
                    pace()
        return body

    def _stream(self, answer: http.client.HTTPResponse) -> None:
        with self.server.open_stream() as pace:
            for line in answer:
                for _ in range(tokens_of_event(line)):
                    pace()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")


class Proxy(ThreadingHTTPServer):
    """Listens for clients; `engine` is where llama.cpp listens, `open_stream` gives a thread its pace."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        *,
        engine: tuple[str, int],
        open_stream: OpenStream,
        failed: Callable[[BaseException], None],
    ) -> None:
        self.engine = engine
        self.open_stream = open_stream
        self._failed = failed
        super().__init__(address, Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is nothing; anything else is for `failed` to decide."""
        import sys

        error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError | TimeoutError):
            self._failed(error)
