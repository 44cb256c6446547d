"""Replays pods on nodes through the placement engine, without a cluster: traces, snapshots, baselines, reports.

No cluster I/O. Files are read by the readers only; everything else is a pure function of values and seeds.
"""
