"""Why a pod was not bound: the words for kube-scheduler, and the reason that metrics count."""

from __future__ import annotations

from enum import StrEnum


class Decline(StrEnum):
    """Reasons, few and fixed."""

    NOT_SYNCED = "NotSynced"
    NOT_LEADING = "NotLeading"
    MALFORMED = "Malformed"
    UNKNOWN_POD = "UnknownPod"
    ANOTHER_POD = "AnotherPod"
    ANOTHER_SCHEDULER = "AnotherScheduler"
    POD_ENDING = "PodEnding"
    POD_CHANGED = "PodChanged"
    INVALID_REQUEST = "InvalidRequest"
    NODE_UNREGISTERED = "NodeUnregistered"
    NO_ROOM = "NoRoom"
    DECISION_TOO_LARGE = "DecisionTooLarge"
    API_REFUSED = "APIRefused"
    NOT_STORED = "NotStored"
    BOUND_ELSEWHERE = "BoundElsewhere"
    FOREIGN_DECISION = "ForeignDecision"
    UNDER_WAY = "UnderWay"
    INTERNAL_ERROR = "InternalError"


class Declined(Exception):
    """The pod is not bound to the node; the message is the answer to the scheduler."""

    def __init__(self, reason: Decline, words: str) -> None:
        super().__init__(words)
        self.reason = reason
