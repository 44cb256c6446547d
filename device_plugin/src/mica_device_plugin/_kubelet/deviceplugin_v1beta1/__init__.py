"""Device plugin protocol v1beta1, generated."""
