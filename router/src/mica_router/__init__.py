"""The router: OpenAI-compatible data plane in front of engines, for the routes of a cluster or of a file.

Shell: `app` (process), `admin` (admin routes), `relay` (protocol-level data path), `sources` (where routes come from).
Core: `core`, pure decisions. Not here: engines, scaling, and anything that writes to the cluster.
"""
