"""Why a pod is, or would be, on this node and not on that one, and what would have to change. For people; decides nothing."""

from mica_extender.explain.report import DETAILED_NODES, explain

__all__ = ["DETAILED_NODES", "explain"]
