"""What was found out about a head of a request, kept for the next request with the same head.

Clients repeat their heads, and most of what becomes of a request is decided by its head and by the name of its model: the target,
the route, whether its key is right, which lines engines get. `core.dispatch` writes plans and follows them; whatever depends on
anything else has no plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mica_router.core.request import Request
    from mica_router.core.routes import Route, RouteTable


class Plan:
    """Of the requests that have one head, name one model, and whose body passes unchanged.

    `path` and `target` are those of `Features`. `kept`: what the relay found out about such requests, for itself.
    """

    __slots__ = ("kept", "path", "route", "target")

    def __init__(self, route: Route, path: str, target: bytes) -> None:
        self.route = route
        self.path = path
        self.target = target
        self.kept: Any = None


class HeadNotes:
    """`plans`, by the model in the body, hold for `table` only, which knows the keys. `bare`: one request, bodyless. `lines`:
    what engines get of the headers, by what is left out of them (`core.outgoing`)."""

    __slots__ = ("bare", "lines", "plans", "table")

    def __init__(self) -> None:
        self.table: RouteTable | None = None
        self.plans: dict[object, Plan] = {}
        self.bare: Request | None = None
        self.lines: dict[int, bytes] = {}

    def __eq__(self, other: object) -> bool:
        """What was noted about a request does not make it another one."""
        return isinstance(other, HeadNotes)

    def __hash__(self) -> int:
        return 0

    def note(self, table: RouteTable, model: object, plan: Plan) -> None:
        """Keep a plan; those for another table are forgotten."""
        if self.table is not table:
            self.table, self.plans = table, {}
        self.plans[model] = plan
