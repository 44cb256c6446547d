"""Serving HTTP/2 (RFC 9113) to one trusted client: as much of it as Go's client speaks, without server push or priorities."""
