"""The proxy: what reaches the client is what llama.cpp said, and every token costs one wait."""

from __future__ import annotations

import ctypes
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from gpu import Driver, Gpu, GpuError, Pace
from proxy import Proxy, tokens_of_answer, tokens_of_event


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        (b'data: {"choices":[{"delta":{"content":"a"}}]}\n', 1),
        (b'data: {"choices":[{"text":"a"}]}\n', 1),
        (b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n', 0),
        (b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n', 0),
        (b'data: {"choices":[],"usage":{"completion_tokens":3}}\n', 0),
        (b"data: [DONE]\n", 0),
        (b": ping\n", 0),
        (b"\n", 0),
    ],
)
def test_only_events_with_text_count(line: bytes, tokens: int) -> None:
    assert tokens_of_event(line) == tokens


@pytest.mark.parametrize(
    ("body", "tokens"), [(b'{"usage":{"completion_tokens":7}}', 7), (b'{"usage":null}', 0), (b"[]", 0), (b"# metrics", 0)]
)
def test_a_whole_answer_counts_by_its_usage(body: bytes, tokens: int) -> None:
    assert tokens_of_answer(body) == tokens


EVENTS = [
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"b"}}]}\n\n',
    b"data: [DONE]\n\n",
]


class Llama(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._whole(b'{"status":"ok"}')

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not request.get("stream"):
            self._whole(json.dumps({"echo": request, "usage": {"completion_tokens": 3}}).encode())
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in EVENTS:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def _whole(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class CountingGpu:
    """Counts launches; fails when told to."""

    def __init__(self) -> None:
        self.launches = 0
        self.broken = False

    @contextmanager
    def stream(self) -> Iterator[Pace]:
        yield self._launch

    def _launch(self) -> None:
        if self.broken:
            raise GpuError("cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED (719)")
        self.launches += 1


Ask = Callable[[str, str, dict[str, object] | None], tuple[int, bytes]]


class Served:
    def __init__(self, gpu: CountingGpu, failures: list[BaseException], port: int) -> None:
        self.gpu = gpu
        self.failures = failures
        self._port = port

    def ask(self, method: str, path: str, body: dict[str, object] | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture
def served() -> Iterator[Served]:
    gpu, failures = CountingGpu(), list[BaseException]()
    llama = ThreadingHTTPServer(("127.0.0.1", 0), Llama)
    llama.daemon_threads = True
    proxy = Proxy(
        ("127.0.0.1", 0),
        engine=("127.0.0.1", llama.server_address[1]),
        open_stream=gpu.stream,
        failed=failures.append,
    )
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in (llama, proxy)]
    for thread in threads:
        thread.start()
    yield Served(gpu, failures, proxy.server_address[1])
    for server in (proxy, llama):
        server.shutdown()
        server.server_close()
    for thread in threads:
        thread.join()


def test_a_stream_passes_unchanged_with_one_launch_per_token(served: Served) -> None:
    status, body = served.ask("POST", "/v1/chat/completions", {"stream": True})
    assert (status, body) == (200, b"".join(EVENTS))
    assert served.gpu.launches == 2


def test_a_whole_answer_costs_its_tokens(served: Served) -> None:
    status, body = served.ask("POST", "/v1/chat/completions", {"model": "tiny"})
    assert status == 200
    assert json.loads(body)["echo"] == {"model": "tiny"}
    assert served.gpu.launches == 3


def test_what_generates_nothing_costs_nothing(served: Served) -> None:
    assert served.ask("GET", "/health") == (200, b'{"status":"ok"}')
    assert served.gpu.launches == 0


def test_a_broken_gpu_is_reported_and_not_hidden(served: Served) -> None:
    served.gpu.broken = True
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        served.ask("POST", "/v1/chat/completions", {"stream": True})
    assert [type(error) for error in served.failures] == [GpuError]


class FakeLibrary:
    """Answers CUDA_SUCCESS, except where memory runs out."""

    def __init__(self, *, free_mib: int) -> None:
        self._free = free_mib
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: object) -> int:
            self.calls.append(name)
            if name == "cuMemAlloc_v2":
                size = arguments[1]
                assert isinstance(size, ctypes.c_size_t)
                self._free -= size.value // 2**20
                return 0 if self._free >= 0 else 2
            return 0

        return call


def test_weights_and_kv_are_allocated_and_a_token_is_a_launch_and_a_wait() -> None:
    library = FakeLibrary(free_mib=96)
    gpu = Gpu(Driver(library), weights_mib=64, kv_mib=32, kernel_us=5)
    assert library.calls.count("cuMemAlloc_v2") == 2
    with gpu.stream() as pace:
        pace()
        pace()
    assert library.calls[-6:] == ["cuStreamCreate", *["cuLaunchKernel", "cuStreamSynchronize"] * 2, "cuStreamDestroy_v2"]


def test_a_slice_that_is_too_small_is_named() -> None:
    with pytest.raises(GpuError, match=r"cannot allocate 32 MiB for the KV cache: .*\(2\)"):
        Gpu(Driver(FakeLibrary(free_mib=64)), weights_mib=64, kv_mib=32, kernel_us=5)
