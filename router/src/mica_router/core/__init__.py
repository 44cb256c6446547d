"""Decisions of the router as functions of values: no sockets, no clock, no event loop."""
