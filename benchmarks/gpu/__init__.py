"""Experiments on a real GPU, unattended: facts of the driver, exact caps and shares, overhead. A dry run is simulated."""
