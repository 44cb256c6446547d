"""Which cards a pod gets on a node, why it gets none, and which node is best. Pure functions of values.

No I/O, no clock, no state: the scheduler verbs, explain and the command line's simulator call the same functions. Where the
values come from is ``mica_extender.state``.
"""

from mica_extender.placement.fit import SEARCH_BUDGET, Found, choose, search
from mica_extender.placement.model import Card, Code, NodeState, Placement, Rejection, Shape, Verdict
from mica_extender.placement.score import MAX_SCORE, score

__all__ = [
    "MAX_SCORE",
    "SEARCH_BUDGET",
    "Card",
    "Code",
    "Found",
    "NodeState",
    "Placement",
    "Rejection",
    "Shape",
    "Verdict",
    "choose",
    "score",
    "search",
]
