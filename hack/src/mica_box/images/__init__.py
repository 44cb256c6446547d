"""Images without a registry: bases, layers, archives, and their import into a box."""
