"""``python -m benchmarks.gpu [PART …] [--simulated]``: experiments on GPU 0, unattended, below ten minutes a part.

Prints tables and writes ``build/bench/gpu.json`` (a dry run: ``gpu-simulated.json``). Exit status 0 when all was measured or
skipped in words, 2 when there is no GPU or something failed, 130 when interrupted. It changes no setting of the card.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks import _command
from benchmarks._command import CannotMeasure
from benchmarks._report import Figure, report
from benchmarks.gpu.options import Options, Skipped, dry

PARTS: Final = ("facts", "memory", "share", "tenants", "overhead", "resize", "residual")


def read_arguments(words: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Parts to run, and whether on the simulated card. Exits with status 2 and words for what cannot be meant."""
    parser = _command.parser("gpu", "Measure the limiter on a real GPU.", PARTS)
    parser.add_argument("--simulated", action="store_true", help="a dry run on the simulated card; its figures mean nothing")
    given = parser.parse_args(words)
    return _command.known(parser, "part", given.parts, PARTS) or PARTS, given.simulated


def why_no_gpu() -> str:
    """Why there is no GPU to measure; empty when there is one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1 is not installed)"
    count = ctypes.c_int()
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error or not count.value:
        return f"the driver finds no GPU (error {error})"
    return ""


def options_for(simulated: bool, missing: Callable[[], str] = why_no_gpu) -> Options:
    """Options of a run. Raises CannotMeasure where there is no GPU."""
    if simulated:
        return dry()
    why = missing()
    if why:
        raise CannotMeasure(f"no GPU: {why}. `--simulated` tries the scripts on the simulated card")
    return Options()


def measure(part: str, simulated: bool) -> Sequence[Figure] | None:
    """Figures of one part; None when it was skipped, which is said."""
    begin = time.monotonic()
    try:
        found = _command.figures("gpu", part, options_for(simulated))
    except Skipped as why:
        print(f"mica: {part} skipped: {why}", file=sys.stderr)
        return None
    print(f"{part}: {time.monotonic() - begin:.0f} s")
    return found


def main() -> None:
    """Entry point."""
    parts, simulated = read_arguments(sys.argv[1:])
    status = 0
    try:
        options_for(simulated)
    except CannotMeasure as error:
        _command.stop(error)
    for part in parts:
        try:
            found = measure(part, simulated)
        except CannotMeasure as error:
            print(f"mica: {part}: {error}", file=sys.stderr)
            status = _command.CANNOT_MEASURE  # the other parts can still be measured
            continue
        except KeyboardInterrupt:
            _command.interrupted()
        if found is not None:
            report("gpu-simulated" if simulated else "gpu", part, found)
    sys.exit(status)


if __name__ == "__main__":
    main()
