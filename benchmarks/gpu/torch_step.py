"""A PyTorch program of the experiments: rates of a launch-bound step, of the same step as a CUDA graph, and of a large matmul."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from typing import Any


def rate(torch: Any, step: Callable[[], Any], seconds: float = 3.0) -> float:
    """Steps per second after a warm-up."""
    for _ in range(10):
        step()
    torch.cuda.synchronize()
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        for _ in range(10):
            step()
        torch.cuda.synchronize()
        count += 10
    return count / (time.perf_counter() - begin)


def main() -> None:
    """Entry point."""
    torch: Any = importlib.import_module("torch")
    model = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(50))).cuda()
    batch, large = torch.randn(8, 256, device="cuda"), torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        found = {"launch-bound step, eager": rate(torch, lambda: model(batch))}
        with torch.cuda.graph(graph):
            model(batch)
        found["launch-bound step, graph"] = rate(torch, graph.replay)
        found["matmul 8192 bf16"] = rate(torch, lambda: large @ large)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
