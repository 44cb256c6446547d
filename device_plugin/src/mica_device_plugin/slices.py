"""What the agent keeps on the host: pins, slice directories, limits, regions and CDI specs.

Order is what makes it safe to be killed anywhere: a pin is written before anything else of its pod, a CDI spec last; removal goes
the other way round. ``load`` rebuilds everything the agent knows from these files. Not a place for decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mica_device_plugin import region
from mica_device_plugin.cdi import Edits, render_spec
from mica_device_plugin.files import Files
from mica_device_plugin.limits import Limits, read_generation, read_owner, render_limits, says_the_same
from mica_device_plugin.pins import InvalidPin, decode_pin, encode_pin
from mica_device_plugin.settings import Layout
from mica_device_plugin.values import KEY_LENGTH, Pin, SliceKey, SliceOwner
from mica_runtime.logging import get_logger

_LIMITS_MODE: Final = 0o644
_REGION_MODE: Final = 0o666
_SPEC_MODE: Final = 0o644
_PIN_MODE: Final = 0o600
_log = get_logger(__name__)

Liveness = Callable[[Path], bool]


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Everything found: ``slices`` maps keys to owners, None for a directory that has no limits yet.

    ``damaged``: names of files among the pins that are none.
    """

    pins: Mapping[str, Pin]
    slices: Mapping[SliceKey, SliceOwner | None]
    specs: frozenset[SliceKey]
    damaged: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Cut:
    """What became of one region: ``surplus`` bytes were cut off, or ``problem`` says why what is there could not be.

    ``owner`` is looked up only where there is something to say.
    """

    surplus: int = 0
    problem: str = ""
    owner: SliceOwner | None = None


class SliceStore:
    """Reads and writes the files of slices. Methods block for a few file operations; call them in a thread."""

    def __init__(self, layout: Layout, files: Files, *, liveness: Liveness = region.is_live) -> None:
        self._layout = layout
        self._files = files
        self._liveness = liveness

    def load(self) -> OnDisk:
        """What the files say now."""
        keys = _keys(self._files.names(self._layout.slices))
        pins, damaged = self._load_pins()
        return OnDisk(
            pins=pins,
            slices={key: self._owner(key) for key in keys},
            specs=frozenset(_spec_keys(self._files.names(self._layout.cdi))),
            damaged=frozenset(damaged),
        )

    def prepare(self, key: SliceKey) -> None:
        """Make what Allocate's mounts name: the directories of limits and node page, and a region that the limiter refuses.

        It is replaced before the container starts. Where nothing is, a runtime makes a directory to mount. A region in use stays,
        whatever its size: it is the only sign of life of a container that everybody else has forgotten.
        """
        self._make_dirs(key)
        if not self.is_live(key) and not self._files.is_file(self._layout.region_file(key)):
            self._files.remove_tree(self._layout.region_file(key))
            self._files.write(self._layout.region_file(key), b"", mode=_REGION_MODE)

    def write_pin(self, pin: Pin) -> None:
        """Store a verified decision; it survives a power failure once this returns."""
        self._files.make_dir(self._layout.pins)
        self._files.write(self._layout.pin_file(pin.pod_uid), encode_pin(pin), mode=_PIN_MODE, durable=True)

    def remove_pin(self, pod_uid: str) -> None:
        """Forget a decision."""
        self._files.remove(self._layout.pin_file(pod_uid))

    def remove_damaged(self, name: str) -> None:
        """Remove a file among the pins that is none."""
        self._files.remove_tree(self._layout.pins / name)

    def write_slice(self, key: SliceKey, limits: Limits, edits: Edits) -> None:
        """Make everything the container needs: an empty region unless a process still uses it, the limits, the CDI spec."""
        if not self.is_live(key):
            self._files.remove_tree(self._layout.usage_dir(key))
        self._make_dirs(key)
        if not self.is_live(key):
            self._files.write(self._layout.region_file(key), bytes(region.SIZE), mode=_REGION_MODE)
        self._write_limits(key, limits, self._files.read(self._layout.limits_file(key)) or b"")
        self._files.make_dir(self._layout.cdi)
        self._files.write(self._layout.cdi_file(key), render_spec(key, edits), mode=_SPEC_MODE)

    def update_limits(self, key: SliceKey, limits: Limits) -> bool:
        """Replace the limits of a running container if they say something else; returns whether they did.

        A file that is not this owner's, or not there, is left alone: the next start writes it.
        """
        before = self._files.read(self._layout.limits_file(key))
        if before is None or read_owner(before) != limits.owner or says_the_same(before, limits):
            return False
        self._write_limits(key, limits, before)
        return True

    def remove_slice(self, key: SliceKey) -> None:
        """Remove the CDI spec, then the directories."""
        self._files.remove(self._layout.cdi_file(key))
        self._files.remove_tree(self._layout.slices / key)

    def is_live(self, key: SliceKey) -> bool:
        """Whether a process inside the container still uses a GPU."""
        return self._liveness(self._layout.region_file(key))

    def cut_regions(self) -> Mapping[SliceKey, Cut]:
        """Take from containers what they added to their regions, which uses the node's memory; what became of each slice's.

        A region that cannot be cut keeps no other from it. Raises OSError when the slices cannot be listed.
        """
        return {key: self._cut(key) for key in _keys(self._files.names(self._layout.slices))}

    def _cut(self, key: SliceKey) -> Cut:
        surplus, problem, owner = 0, "", None
        try:
            surplus = region.cut(self._layout.region_file(key))
        except OSError as error:
            problem = str(error)
        if surplus or problem:
            with suppress(OSError):
                owner = self._owner(key)
        return Cut(surplus, problem, owner)

    def _make_dirs(self, key: SliceKey) -> None:
        self._files.make_dir(self._layout.arbiter_dir)
        self._files.make_dir(self._layout.limits_dir(key))
        self._files.make_dir(self._layout.usage_dir(key))

    def _write_limits(self, key: SliceKey, limits: Limits, before: bytes) -> None:
        """By rename, so that the limiter reads all of it or what was there before."""
        text = render_limits(limits, generation=read_generation(before) + 1)
        self._files.write(self._layout.limits_file(key), text, mode=_LIMITS_MODE)

    def _owner(self, key: SliceKey) -> SliceOwner | None:
        text = self._files.read(self._layout.limits_file(key))
        return read_owner(text) if text is not None else None

    def _load_pins(self) -> tuple[dict[str, Pin], list[str]]:
        pins: dict[str, Pin] = {}
        damaged: list[str] = []
        for name in self._files.names(self._layout.pins):
            path = self._layout.pins / name
            try:
                pin = decode_pin(self._files.read(path) or b"")
                if path != self._layout.pin_file(pin.pod_uid):
                    raise InvalidPin(f"it is the pin of pod uid {pin.pod_uid}")
            except (InvalidPin, IsADirectoryError) as error:
                _log.error("pin cannot be read and is ignored; its pod is verified again", path=str(path), error=str(error))
                damaged.append(name)
                continue
            pins[pin.pod_uid] = pin
        return pins, damaged


def _spec_keys(names: list[str]) -> list[SliceKey]:
    return _keys(name.removeprefix("mica-").removesuffix(".json") for name in names if name.startswith("mica-"))


def _keys(names: Iterable[str]) -> list[SliceKey]:
    return [SliceKey(name) for name in names if len(name) == KEY_LENGTH and set(name) <= set("0123456789abcdef")]
