"""The router without a cluster: its configuration file, the commands on it, and how the router is started from it."""
