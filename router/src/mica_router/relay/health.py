"""Which engines are fit: ejected after faults, back after a while or after a probe, and then with a growing share.

Passive: one connection failure or one first-byte timeout ejects; so do several server errors in a row. Active: `probed` tells
what a probe found. Where probes run, an ejected engine comes back only through one that succeeds; without them its time decides.
The time doubles with every ejection in a row. An engine on its way back has a fitness that grows from a tenth to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from mica_router.core.engines import Endpoint
from mica_router.ports import Clock

_AT_ONCE = frozenset({"connect", "disconnected", "first_byte_timeout", "idle_timeout", "reset", "truncated"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    """Seconds and counts. `probed`: probes run, and an ejected engine waits for one. `failures`: failed probes that eject."""

    faults: int = 3
    failures: int = 3
    ejection: float = 2.0
    longest_ejection: float = 30.0
    slow_start: float = 10.0
    probed: bool = False


@dataclass(slots=True)
class _Record:
    faults: int = 0
    failed_probes: int = 0
    ejections: int = 0
    ejected_at: float = 0.0
    ejected_until: float = 0.0
    waits_for_probe: bool = False
    back_since: float | None = None


class Health:
    """Records of engines that are not wholly sound; a sound engine has none."""

    def __init__(self, clock: Clock, rules: HealthRules | None = None) -> None:
        self._clock = clock
        self._rules = rules or HealthRules()
        self._records: dict[Endpoint, _Record] = {}
        self.fitness: Mapping[Endpoint, float] = {}
        self.ejections: dict[str, int] = {}

    def fault(self, endpoint: Endpoint, reason: str) -> None:
        """A request failed there."""
        record = self._records.setdefault(endpoint, _Record())
        record.faults += 1
        if reason in _AT_ONCE or record.faults >= self._rules.faults:
            self._eject(endpoint, record, reason)

    def sound(self, endpoint: Endpoint) -> None:
        """A request was answered there."""
        record = self._records.get(endpoint)
        if record is not None:
            record.faults = 0
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

    def _eject(self, endpoint: Endpoint, record: _Record, reason: str) -> None:
        now, rules = self._clock(), self._rules
        if record.ejected_until > now or record.waits_for_probe:
            return
        record.ejections += 1
        seconds = min(rules.ejection * 2 ** (record.ejections - 1), rules.longest_ejection)
        record.ejected_at = now
        record.ejected_until = now + seconds
        record.waits_for_probe = rules.probed
        record.back_since = None
        record.faults = 0
        self.ejections[reason] = self.ejections.get(reason, 0) + 1
        self.refresh()

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
            elif not (record.faults or record.failed_probes):
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

    def keep_only(self, endpoints: Set[Endpoint]) -> None:
        """Forget engines that are gone."""
        self._records = {endpoint: record for endpoint, record in self._records.items() if endpoint in endpoints}
        self.refresh()
