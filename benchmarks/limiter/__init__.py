"""The limiter measured: cost of its calls (callgrind), accuracy of its shares (simulated cards under a virtual clock)."""
