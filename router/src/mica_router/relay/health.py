"""Which engines are fit: ejected after faults, back after a while or after a probe, and then with a growing share.

Passive: a connection that cannot be made ejects at once, because no request had to do with it. Any other fault may be the
request's own, so several distinct requests have to fail in a row: two that were lost (no answer in time, connection broken) or
three of any kind. A request that comes again with the same bytes counts once, until another engine has answered it: then the
fault was the engine's. Faults of requests never take out the last fit engine of a service.

Active: `probed` tells what a probe found. Workers of one router tell each other whom they took out (`announce`); faults that were
not enough are each worker's own, so an engine that hangs is met by up to `lost - 1` requests more in each further worker.

Where probes run, an ejected engine comes back only through one that succeeds; without them its time decides. The time doubles
with every ejection in a row. An engine on its way back has a fitness that grows from a tenth to one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from mica_router.core.engines import Endpoint
from mica_router.ports import Clock

_LOST: Final = frozenset({"disconnected", "first_byte_timeout", "idle_timeout", "reset", "truncated"})
_MARKS: Final = 8
_DOUBLINGS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    """Seconds and counts.

    `faults` and `lost`: distinct requests that have to fail, or to be lost, in a row. `failures`: failed probes that eject.
    `probed`: probes run, and an ejected engine waits for one.
    """

    faults: int = 3
    lost: int = 2
    failures: int = 3
    ejection: float = 2.0
    longest_ejection: float = 30.0
    slow_start: float = 10.0
    probed: bool = False


@dataclass(slots=True)
class _Record:
    """Requests that failed in a row: how, where the engine is known to be at fault, and how often each of the others."""

    proven: list[str] = field(default_factory=list)
    open: dict[int, tuple[str, int]] = field(default_factory=dict)
    failed_probes: int = 0
    ejections: int = 0
    ejected_at: float = 0.0
    ejected_until: float = 0.0
    waits_for_probe: bool = False
    back_since: float | None = None


class Health:
    """Records of engines that are not wholly sound; a sound engine has none.

    `announce` is told of every engine that a fault took out here.
    """

    def __init__(self, clock: Clock, rules: HealthRules | None = None) -> None:
        self._clock = clock
        self._rules = rules or HealthRules()
        self._records: dict[Endpoint, _Record] = {}
        self._groups: tuple[frozenset[Endpoint], ...] = ()
        self.fitness: Mapping[Endpoint, float] = {}
        self.ejections: dict[str, int] = {}
        self.announce: Callable[[Endpoint, str], None] = lambda endpoint, reason: None

    def fault(self, endpoint: Endpoint, reason: str, *, mark: int = 0) -> None:
        """A request failed there. `mark` names the request, and another request of the same bytes; 0: no other one."""
        record = self._records.setdefault(endpoint, _Record())
        if reason == "connect":
            self._eject(endpoint, record, reason)
            return
        if not mark:
            record.proven = [*record.proven[-_MARKS:], reason]
        elif mark in record.open or len(record.open) < _MARKS:
            record.open[mark] = (reason, record.open.get(mark, ("", 0))[1] + 1)
        self._judge(endpoint, record, reason)

    def answered_elsewhere(self, endpoints: Collection[Endpoint], *, mark: int) -> None:
        """Another engine answered the request that failed at these: the fault was theirs."""
        for endpoint in endpoints:
            record = self._records.get(endpoint)
            if record is not None and mark in record.open:
                reason, times = record.open.pop(mark)
                if times > 1:
                    record.open[mark] = (reason, times - 1)
                record.proven = [*record.proven[-_MARKS:], reason]
                self._judge(endpoint, record, reason)

    def ejected_elsewhere(self, endpoint: Endpoint, reason: str) -> None:
        """Another worker took it out. Not counted here."""
        record = self._records.setdefault(endpoint, _Record())
        if reason == "connect" or not self._is_last(endpoint):
            self._take_out(record)

    def sound(self, endpoint: Endpoint) -> None:
        """A request was answered there."""
        record = self._records.get(endpoint)
        if record is not None:
            record.proven, record.open = [], {}
            if not (record.ejections or record.failed_probes):
                del self._records[endpoint]

    def probed(self, endpoint: Endpoint, *, alive: bool) -> None:
        """What a probe found."""
        record = self._records.get(endpoint)
        if alive:
            if record is not None:
                record.failed_probes = 0
                record.waits_for_probe = False
                self.refresh()
            return
        record = record or self._records.setdefault(endpoint, _Record())
        record.failed_probes += 1
        if record.failed_probes >= self._rules.failures:
            self._eject(endpoint, record, "probe")

    def _judge(self, endpoint: Endpoint, record: _Record, reason: str) -> None:
        kinds = [*record.proven, *(kind for kind, _ in record.open.values())]
        enough = len(kinds) >= self._rules.faults or sum(kind in _LOST for kind in kinds) >= self._rules.lost
        if enough and not self._is_last(endpoint):
            self._eject(endpoint, record, reason)

    def _is_last(self, endpoint: Endpoint) -> bool:
        """Whether some service has no other engine that is fit."""
        fitness = self.fitness
        return any(
            endpoint in group and not any(fitness.get(other, 1.0) > 0 for other in group if other != endpoint)
            for group in self._groups
        )

    def _eject(self, endpoint: Endpoint, record: _Record, reason: str) -> None:
        if self._take_out(record):
            self.ejections[reason] = self.ejections.get(reason, 0) + 1
            if reason != "probe":
                self.announce(endpoint, reason)

    def _take_out(self, record: _Record) -> bool:
        """False: it was out already."""
        now, rules = self._clock(), self._rules
        if record.ejected_until > now or record.waits_for_probe:
            return False
        record.ejections += 1
        seconds = min(rules.ejection * 2 ** min(record.ejections - 1, _DOUBLINGS), rules.longest_ejection)
        record.ejected_at = now
        record.ejected_until = now + seconds
        record.waits_for_probe = rules.probed
        record.back_since = None
        record.proven, record.open = [], {}
        self.refresh()
        return True

    @property
    def watched(self) -> bool:
        """Whether any engine has a record."""
        return bool(self._records)

    def ejected_since(self, endpoint: Endpoint, moment: float) -> bool:
        """Whether it was ejected after `moment` and still is."""
        if self.fitness.get(endpoint, 1.0) != 0:
            return False
        record = self._records.get(endpoint)
        return record is not None and record.ejected_at > moment

    def refresh(self) -> None:
        """Compute fitness anew; the sweep calls this."""
        if not self._records and not self.fitness:
            return
        now = self._clock()
        fitness = {}
        for endpoint, record in list(self._records.items()):
            value = self._fitness(record, now)
            if value < 1:
                fitness[endpoint] = value
            elif not (record.proven or record.open or record.failed_probes):
                del self._records[endpoint]
        self.fitness = fitness

    def _fitness(self, record: _Record, now: float) -> float:
        if not record.ejections:
            return 1.0
        if record.ejected_until > now or record.waits_for_probe:
            return 0.0
        if record.back_since is None:
            record.back_since = now
        share = (now - record.back_since) / self._rules.slow_start
        if share < 1:
            return max(0.1, share)
        record.ejections = 0
        return 1.0

    def keep_only(self, groups: Collection[Collection[Endpoint]]) -> None:
        """Forget engines that are gone. `groups`: the engines of each service."""
        self._groups = tuple(map(frozenset, groups))
        left = frozenset().union(*self._groups)
        self._records = {endpoint: record for endpoint, record in self._records.items() if endpoint in left}
        self.refresh()
