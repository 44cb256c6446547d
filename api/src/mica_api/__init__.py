"""Values that every Mica component shares: names, requests, allocations, dialects and the models of the CRDs.

Not a client and not a framework: nothing here does I/O, keeps state or starts a task.
"""
