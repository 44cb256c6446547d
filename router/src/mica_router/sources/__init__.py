"""Where routes come from: a file, or the cluster. Each source implements `mica_router.ports.RouteSource`."""
