"""`python -m tests.unit.router.engines --dialect vllm --port 8001`: one scripted engine as a process, to be killed or asked."""

from __future__ import annotations

import argparse
import asyncio
import sys

from .llamacpp_dialect import llamacpp_engine
from .toy_engine import Fault, ToyEngine
from .toy_model import ToyModel
from .vllm_dialect import vllm_engine


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="engines", description=__doc__)
    parser.add_argument("--dialect", choices=["vllm", "llamacpp"], default="vllm")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; the first line of the output says which")
    parser.add_argument("--name", default="toy")
    parser.add_argument("--seed", type=int, default=0, help="the weights")
    parser.add_argument("--token-ms", type=float, default=0.0, help="time of one token")
    parser.add_argument("--stream-interval", type=int, default=1, help="tokens per event")
    parser.add_argument("--fault", choices=["reset", "close", "half_frame", "hang", "error_event", "status", "garbage"])
    parser.add_argument("--fault-after", type=int, default=0, help="tokens before the fault of the first answer")
    return parser.parse_args()


async def serve(options: argparse.Namespace) -> None:
    make = vllm_engine if options.dialect == "vllm" else llamacpp_engine

    async def pace() -> None:
        await asyncio.sleep(options.token_ms / 1000)

    engine: ToyEngine = make(name=options.name, model=ToyModel(seed=options.seed), merge=(options.stream_interval,), pace=pace)
    if options.fault:
        engine.state.faults.append(Fault(options.fault, after=options.fault_after))
    await engine.start(host=options.host, port=options.port)
    sys.stdout.write(f"http://{options.host}:{engine.endpoint.port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(read_arguments()))
