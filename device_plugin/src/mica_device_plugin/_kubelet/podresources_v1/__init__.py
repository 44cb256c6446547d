"""PodResources protocol v1, generated."""
