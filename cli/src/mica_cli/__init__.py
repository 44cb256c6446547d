"""The command line: `mica`, and `kubectl mica` as kubectl's plugin.

Thin: it formats what the cluster holds and starts the router as a process. Decisions live in the components.
"""
