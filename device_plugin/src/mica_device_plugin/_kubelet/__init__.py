"""Generated stubs of the kubelet's gRPC services (`make generate`). Not for editing."""
