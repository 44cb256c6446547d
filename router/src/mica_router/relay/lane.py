"""What the relay knows of all requests that share a plan (`core.plans`), so that it is made once and not for every request."""

from __future__ import annotations

import math

from mica_router.core.features import Features
from mica_router.core.headers import carries_length, render_request_start
from mica_router.core.outgoing import forwarded_of, is_traced
from mica_router.core.request import Request
from mica_router.core.target import is_repeatable
from mica_router.relay.context import RelayContext


class Lane:
    """`start` and `lines`: what engines get of the client's head, before and behind their own name. `untraced`: a trace context
    is to be added. `total`: seconds of the deadline of the whole exchange, infinite where there is none. `framed`: engines are
    told a length of 0 as well.
    """

    __slots__ = (
        "context",
        "deadlines",
        "framed",
        "key",
        "lines",
        "method",
        "model",
        "repeatable",
        "start",
        "target",
        "total",
        "untraced",
    )

    def __init__(self, context: RelayContext, request: Request, features: Features) -> None:
        service = features.route.service
        routing = service.routing
        self.context = context
        self.key = service.key
        self.model = features.route.public_name
        self.deadlines = context.deadlines(routing.deadlines)
        self.total = routing.deadlines.total or math.inf
        self.lines = forwarded_of(request, path=features.path, hides_keys=bool(routing.api_keys))
        self.untraced = not is_traced(request)
        self.repeatable = is_repeatable(features.method, features.path)
        self.method = request.method
        self.framed = carries_length(request.method)
        self.target = features.target
        self.start = render_request_start(request.method, features.target)


def lane_of(context: RelayContext, request: Request, features: Features) -> Lane:
    """That of its plan, or one of its own."""
    plan = features.plan
    if plan is None:
        return Lane(context, request, features)
    lane = plan.kept
    if type(lane) is not Lane or lane.context is not context:
        lane = plan.kept = Lane(context, request, features)
    return lane
