"""Decisions of the operator: pure functions of what was observed. No I/O, no clock, no framework."""
