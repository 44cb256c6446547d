"""The demo's inference engine: llama.cpp (xllamacpp) behind a proxy that mirrors its work on the slice's GPU. See README.md.

The flags that llama-server has too mean the same; every flag has an environment variable, named in --help.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

import xllamacpp
from gpu import Gpu, GpuError, Pace, no_gpu, open_gpu
from make_model import write_model
from proxy import Proxy

BUILT_IN_MODEL: Final = Path("/models/tiny.gguf")


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def fail(message: str) -> NoReturn:
    """End the process from any thread."""
    say(f"error: {message}")
    os._exit(1)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError("must be a port")
    return value


def parse_arguments(arguments: Sequence[str], environment: dict[str, str]) -> argparse.Namespace:
    """Flags over environment over defaults. Ends the process with usage on anything unknown."""
    parser = argparse.ArgumentParser(prog="engine.py", allow_abbrev=False)

    def add(*names: str, variable: str, default: str, kind: Callable[[str], object] = str, text: str) -> None:
        parser.add_argument(
            *names,
            type=kind,
            default=environment.get(variable, default),
            help=f"{text} (${variable}, {default})",
        )

    add("--host", variable="ENGINE_HOST", default="0.0.0.0", text="address to listen on")
    add("--port", variable="ENGINE_PORT", default="8000", kind=_port, text="port; 0 takes a free one")
    add("-m", "--model", variable="ENGINE_MODEL", default=str(BUILT_IN_MODEL), kind=Path, text="GGUF file")
    add("-a", "--alias", variable="ENGINE_ALIAS", default="tiny", text="model name in answers")
    add("-c", "--ctx-size", variable="ENGINE_CTX_SIZE", default="16384", kind=_positive, text="context of all slots together")
    add("-np", "--parallel", variable="ENGINE_PARALLEL", default="4", kind=_positive, text="requests served side by side")
    add("-t", "--threads", variable="ENGINE_THREADS", default="1", kind=_positive, text="CPU threads")
    parser.add_argument("--metrics", action="store_true", help="as of llama-server; here GET /metrics is always served")
    add("--weights-mib", variable="ENGINE_WEIGHTS_MIB", default="1024", kind=_positive, text="weights allocated on the GPU")
    add("--kv-mib", variable="ENGINE_KV_MIB", default="512", kind=_positive, text="KV cache allocated on the GPU")
    add("--kernel-us", variable="ENGINE_KERNEL_US", default="5000", kind=_positive, text="GPU time of one token")
    return parser.parse_args(arguments)


def find_model(path: Path) -> Path:
    """The model file. The built-in one is written on the spot if the image does not hold it."""
    if path.is_file():
        return path
    if path != BUILT_IN_MODEL:
        fail(f"there is no model file {path}; give --model the path of a GGUF file (the built-in one is {BUILT_IN_MODEL})")
    written = Path(tempfile.mkdtemp(prefix="engine-")) / path.name
    write_model(written)
    say(f"wrote the built-in model: {written}")
    return written


def start_llama(options: argparse.Namespace, model: Path) -> tuple[xllamacpp.Server, tuple[str, int]]:
    """llama.cpp's server on a loopback port of its own. Returns it (keep it alive) and its address."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {options.alias}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_ctx = options.ctx_size
    parameters.n_parallel = options.parallel
    parameters.endpoint_metrics = True
    parameters.cpuparams.n_threads = options.threads
    try:
        server = xllamacpp.Server(parameters)
    except Exception as error:
        fail(f"llama.cpp did not start with {model}: {error}")
    address = urlsplit(server.listening_address)
    return server, (address.hostname or "127.0.0.1", address.port or 0)


@contextmanager
def _without_gpu() -> Iterator[Pace]:
    yield no_gpu


def load_gpu(options: argparse.Namespace) -> Gpu | None:
    """Weights and KV on the GPU; the process ends if they do not fit."""
    try:
        gpu = open_gpu(weights_mib=options.weights_mib, kv_mib=options.kv_mib, kernel_us=options.kernel_us)
    except GpuError as error:
        fail(
            f"{error}. The slice is too small, or the GPU is not usable: lower --weights-mib or --kv-mib, or ask for more memory."
        )
    if gpu is None:
        say("no GPU driver here: running on the CPU alone, nothing is mirrored")
    else:
        say(f"GPU: {options.weights_mib} MiB weights, {options.kv_mib} MiB KV cache, {options.kernel_us} us a token")
    return gpu


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = parse_arguments(sys.argv[1:], dict(os.environ))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    gpu = load_gpu(options)
    llama, address = start_llama(options, find_model(options.model))
    try:
        proxy = Proxy(
            (options.host, options.port),
            engine=address,
            open_stream=gpu.stream if gpu is not None else _without_gpu,
            failed=lambda error: fail(f"a request failed: {error!r}"),
        )
    except OSError as error:
        fail(f"cannot listen on {options.host}:{options.port}: {error}")
    threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    say(f"serving {options.alias} on {options.host}:{proxy.server_address[1]}")
    stop.wait()
    say(f"stopping {llama.listening_address}")
    proxy.socket.close()
    # Threads that still wait for a client or the GPU must not hold the process up; the driver takes back its memory.
    os._exit(0)


if __name__ == "__main__":
    main()
