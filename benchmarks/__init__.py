"""Benchmarks: how fast, how well packed, at what cost. Run by ``make bench-AREA``; not part of the wheel and of no component."""
