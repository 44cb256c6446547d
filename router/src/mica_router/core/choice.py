"""What becomes of a request that needs an engine: this engine, wait, or no. The values and the port; see `core.policies`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from mica_router.core.engines import Endpoint, Engine
from mica_router.core.errors import ApiError
from mica_router.core.features import Features
from mica_router.core.routes import ServiceKey


class Pick(NamedTuple):
    """This engine takes it. `reason` is a word for metrics and `/explain`, as `policy` or `overflow`."""

    engine: Engine
    reason: str = "policy"


class Relay(NamedTuple):
    """This engine takes the next `tokens` of a stream, and then it is decided who goes on; 0: it takes all that is left."""

    pick: Pick
    tokens: int


class Hold(NamedTuple):
    """Nobody can take it now; it waits in the service's queue and is looked at again when something has changed."""

    reason: str


class Refusal(NamedTuple):
    """Nobody will take it."""

    reason: str
    error: ApiError


class EngineGauges(NamedTuple):
    """What an engine said of itself at its last scrape. `age`: seconds since then. None: it does not publish the number.

    `kv_percent` is 0…100; rates are tokens per second.
    """

    age: float
    running: float | None = None
    waiting: float | None = None
    swapped: float | None = None
    kv_percent: float | None = None
    generation_rate: float | None = None
    prompt_rate: float | None = None


class LoadView(Protocol):
    """Live numbers. `fitness` holds only engines that are not wholly sound: 0 is ejected, between 0 and 1 is on its way back."""

    @property
    def fitness(self) -> Mapping[Endpoint, float]:
        """Per endpoint, 0…1; one that is not there is sound (1)."""

    def in_flight(self, endpoint: Endpoint) -> int:
        """Requests of all workers of this router at this engine."""

    def gauges(self, endpoint: Endpoint) -> EngineGauges | None:
        """The last scrape, however old; None when there was none."""

    def held(self, key: ServiceKey) -> int:
        """Requests of a service that wait here for an engine."""

    def turn(self) -> int:
        """A number that rises with every call; equals take turns by it."""

    def random(self) -> float:
        """0 ≤ x < 1."""


class Chooser(Protocol):
    """Chooses one engine. Pure, but for `load`."""

    def choose(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Pick | Relay | Hold | Refusal:
        """`candidates`: ready engines of the service, less those that were tried."""

    def choose_to_resume(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Pick | Hold | Refusal:
        """For a stream that broke. `candidates`: those that can go on with it."""

    def choose_to_relay(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Relay | Hold | Refusal:
        """For a stream whose engine has made its tokens. `candidates`: those that can go on with it, that engine among them."""
