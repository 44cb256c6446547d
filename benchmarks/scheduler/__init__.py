"""The placement engine and the scheduler around it: ``speed``, ``packing``, ``throughput``."""
