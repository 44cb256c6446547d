"""The node agent: presents a node's GPUs, checks decisions before containers start, and writes and removes their limits.

Not a scheduler: it never chooses a GPU, it only says whether a decision can be right on this node.
"""
