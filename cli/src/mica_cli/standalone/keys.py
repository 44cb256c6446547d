"""Keys of the configuration file: their names in every generation, and how one of them is set. Pure.

A key is a dotted path (`services.gpu.port`, in a list `services.gpu.1.port`). Older programs named some of them differently;
`ALIASES` says which key an old name means. A file is kept as the plain tree that YAML gives, so that what is not set stays unset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from mica_cli.standalone.config import TIERS, Config, Section

ALIASES: Final[Mapping[str, str]] = {
    **{f"{service}.{field}": f"services.{service}.{field}" for service in (*TIERS, "conductor") for field in ("host", "port")},
    "model": "models.default",
    "maxtokens": "models.params.max_tokens",
    "max_tokens": "models.params.max_tokens",
    "temperature": "models.params.temperature",
    "test_prompt": "models.params.test_prompt",
    "test_tokens": "models.params.test_tokens",
    "models.params.model": "models.default",
    "request_timeout": "system.request_timeout",
    "max_queue_size": "system.max_queue_size",
    "auto_pd_offload": "decider.auto_pd_offload",
    "cpu_max_batch_size": "decider.cpu_max_batch_size",
}
"""Names of earlier generations and of their commands, and the key that each of them means."""

EVERY_HOST: Final = ("host", "services.host")
"""Keys that set the host of all services at once."""


class BadKey(Exception):
    """A key or a value that cannot be, with words that say what to change."""


def set_key(tree: Mapping[str, Any], key: str, value: str) -> dict[str, Any]:
    """The same tree with one key set. `value` is read as YAML, so numbers are numbers and lists are lists.

    Raises BadKey when the key does not exist or the value is not allowed; other errors that the tree already has do not matter.
    """
    try:
        parsed: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadKey(f"{key}: the value is not valid YAML: {error}") from error
    paths = _paths(tree, key)
    if type(parsed) is int and str(parsed) != value.strip() and any(_wants(path) is not str for path in paths):
        # YAML knows numbers of other bases: 010 is 8, and 1:30 is 90.
        raise BadKey(f"{key}: {value} means {parsed} in YAML; write {parsed} if that is meant")
    changed = deepcopy(dict(tree))
    for path in paths:
        _put(changed, path, parsed if _wants(path) is not str or isinstance(parsed, str) else value)
    before = {place for place, _ in problems(tree)}
    new = [(place, text) for place, text in problems(changed) if place not in before or _concerns(place, paths)]
    if new:
        raise BadKey("; ".join(f"{place}: {text}" for place, text in new))
    return changed


def get_key(tree: Mapping[str, Any], key: str) -> Any:
    """What is in force for a key: what the tree says, or the default. Raises BadKey."""
    if key in EVERY_HOST:
        raise BadKey(f"{key} is several keys at once; ask for one of {', '.join(f'services.{tier}.host' for tier in TIERS)}")
    config: Any = parse(tree).model_dump(mode="json")
    (path,) = _paths(tree, key)
    for part in path:
        if isinstance(config, list) and part.isdigit():
            config = config[int(part)]
        elif isinstance(config, list) and len(config) == 1:
            config = config[0][part]
        else:
            config = config[part]
    return config


def parse(tree: Any) -> Config:
    """The configuration that a tree means. Raises BadKey that lists everything that is wrong, each with its place."""
    found = problems(tree)
    if found:
        raise BadKey("\n".join(f"{place}: {text}" for place, text in found))
    return Config.model_validate(_canonical(tree))


def problems(tree: Any) -> list[tuple[str, str]]:
    """Everything that is wrong with a tree: (key, what to change)."""
    if not isinstance(tree, Mapping):
        return [("file", "must be a mapping of sections; run mica init for a new one")]
    try:
        Config.model_validate(_canonical(tree))
    except BadKey as error:
        return [("file", str(error))]
    except ValidationError as error:
        return [(_place(entry["loc"]), _words(entry)) for entry in error.errors()]
    return []


def described() -> Iterator[tuple[str, str, str]]:
    """Every key that can be set: (name, default as YAML, what it does), in the order of the file."""
    yield "services.host", "", "host of every service at once"
    yield from _described(Config(), "")


def _described(section: Section, prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        key = f"{prefix}{name}"
        if isinstance(value, Section):
            yield from _described(value, f"{key}.")
            continue
        plain = [item.model_dump(mode="json") for item in value] if isinstance(value, tuple) else value
        yield key, yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip(), field.description or ""
        if key in ("services.gpu", "services.cpu"):
            for part, inner in type(value[0]).model_fields.items():
                yield f"{key}.{part}", str(getattr(value[0], part)), inner.description or ""


def _paths(tree: Mapping[str, Any], key: str) -> list[tuple[str, ...]]:
    """Where a key is in a tree; several for the keys of `EVERY_HOST`."""
    if key in EVERY_HOST:
        tiers = [path for tier in TIERS for path in _engine_hosts(tree, tier)]
        return [*tiers, ("services", "conductor", "host")]
    path = tuple(ALIASES.get(key, key).split("."))
    _check(path, key)
    listed = _listed(tree, path[1]) if path[0] == "services" and len(path) > 2 and path[1] in TIERS else None
    if listed is None or path[2].isdigit():
        return [path]
    if len(listed) != 1:
        raise BadKey(f"{key}: services.{path[1]} is a list of {len(listed)}; say which, as in services.{path[1]}.0.{path[2]}")
    return [(*path[:2], "0", *path[2:])]


def _engine_hosts(tree: Mapping[str, Any], tier: str) -> list[tuple[str, ...]]:
    listed = _listed(tree, tier)
    if listed is None:
        return [("services", tier, "host")]
    return [("services", tier, str(index), "host") for index in range(len(listed))]


def _listed(tree: Mapping[str, Any], tier: str) -> list[Any] | None:
    services = tree.get("services")
    engines = services.get(tier) if isinstance(services, Mapping) else None
    return engines if isinstance(engines, list) else None


def _check(path: tuple[str, ...], key: str) -> None:
    """Raises BadKey unless `path` names something that the file can hold."""
    if _wants(path) is None:
        raise BadKey(f"there is no key {key}; mica config --help lists them")


def _wants(path: tuple[str, ...]) -> type | None:
    """`str` for keys that hold words, `object` for others, None for no key at all. Sections cannot be set as a whole."""
    section: type[BaseModel] = Config
    rest = list(path)
    while rest:
        field = section.model_fields.get(rest.pop(0))
        if field is None:
            return None
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            section = field.annotation
            continue
        return _wants_in_list(path, rest) if rest or path[-1] in TIERS else (str if field.annotation is str else object)
    return None


def _wants_in_list(path: tuple[str, ...], rest: list[str]) -> type | None:
    if path[0] != "services":
        return None
    inner = rest[1:] if rest and rest[0].isdigit() else rest
    if not inner:
        return object
    return {"host": str, "port": object}.get(inner[0]) if len(inner) == 1 else None


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set what a path names, in place. One engine becomes a list of one where the path asks for a member of a list."""
    node: Any = tree
    for part, following in pairwise(path):
        inner = _step(node, part, path)
        if following.isdigit() and isinstance(inner, dict) and inner:
            inner = node[part] = [inner]
        node = inner
    if isinstance(node, list):
        index = _index(node, path[-1], path)
        node[index] = value
    else:
        node[path[-1]] = value


def _step(node: Any, part: str, path: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        index = _index(node, part, path)
        return node[index]
    if part.isdigit():
        raise BadKey(f"{'.'.join(path)}: {path[0]}.{path[1]} is not a list")
    inner = node.setdefault(part, {})
    if inner is None:
        inner = node[part] = {}
    if not isinstance(inner, dict | list):
        raise BadKey(f"{'.'.join(path)}: {part} holds a value, no keys")
    return inner


def _index(node: list[Any], part: str, path: tuple[str, ...]) -> int:
    """Index in a list; one past the end appends."""
    if not part.isdigit() or int(part) > len(node):
        raise BadKey(f"{'.'.join(path)}: the list has {len(node)} entries")
    if int(part) == len(node):
        node.append({})
    return int(part)


def _canonical(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with old names replaced by the keys they mean. Raises BadKey where both are given and differ."""
    result: dict[str, Any] = {}
    for name, value in tree.items():
        if name in Config.model_fields:
            result[name] = deepcopy(value)
    for name, value in _flat(tree):
        paths = _paths(result, name) if name in EVERY_HOST or name in ALIASES else [(name,)]
        for path in paths:
            if name in ALIASES and _has(result, path):
                raise BadKey(f"{name} and {'.'.join(path)} are the same key; keep one of them")
            if name not in EVERY_HOST or not _has(result, path):
                _put(result, path, value)
    services = result.get("services")
    if isinstance(services, dict) and "host" in services:
        host = services.pop("host")
        for path in _paths(result, "services.host"):
            if not _has(result, path):
                _put(result, path, host)
    return result


def _flat(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What stands beside the sections: old names, with or without a dot, and what nobody knows."""
    for name, value in tree.items():
        if name in Config.model_fields:
            continue
        if name in (*TIERS, "conductor") and isinstance(value, Mapping):
            yield from ((f"{name}.{field}", inner) for field, inner in value.items())
        else:
            yield str(name), value


def _has(tree: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        elif isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
        else:
            return False
    return True


def _concerns(place: str, paths: list[tuple[str, ...]]) -> bool:
    return any(".".join(path).startswith(place) or place.startswith(".".join(path)) for path in paths)


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "file"


def _words(entry: Any) -> str:
    if entry["type"] == "extra_forbidden":
        return "there is no such key; mica config --help lists them"
    message = str(entry["msg"]).removeprefix("Value error, ")
    return message if entry["type"] == "value_error" else f"{message} (it is {entry['input']!r})"
