"""How fast the router is, beside others that install from a registry."""
