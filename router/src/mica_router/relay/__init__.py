"""The data path: protocol-level relay between clients and engines. Decisions live in `mica_router.core`."""
