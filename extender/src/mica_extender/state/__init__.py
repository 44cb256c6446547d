"""What the extender knows of the cluster: decoded objects, the ledger kept from them, and who leads."""
