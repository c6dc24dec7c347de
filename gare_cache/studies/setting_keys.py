"""Settings by dotted key: list, check, change, flatten and print them."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from gare_cache.config import Params
from gare_cache.errors import ConfigError, unknown_name
from gare_cache.settings import Settings, nested_settings


def setting_names() -> list[str]:
    """Return the dotted names of all settings and sections."""
    return [name for name, _ in _names(Params)]


def check_setting(key: str) -> None:
    """Raise an error for an unknown setting; free-form mappings accept every name.

    Raises:
        ConfigError: with the nearest names.
    """
    names = dict(_names(Params))
    if key in names:
        return
    parents = [parent for parent in _parents(key) if parent in names]
    if not parents or not names[parents[0]]:
        raise ConfigError(unknown_name("setting", key, names))


def with_changes(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of settings with dotted keys changed, in their order.

    A section that is null is created. ``{"head.gap.heads": 2}`` on ``{"head": {"gap": None}}``
    gives ``{"head": {"gap": {"heads": 2}}}``.

    Raises:
        ConfigError: a key is below a setting that is not a section.
    """
    changed = copy.deepcopy(dict(values))
    for key, value in changes.items():
        *parents, name = key.split(".")
        section = changed
        for parent in parents:
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
            if not isinstance(section, dict):
                raise ConfigError(f"{key} cannot be set: {parent} is {section!r}, not a section")
        section[name] = copy.deepcopy(value)
    return changed


def overlap(key: str, other: str) -> bool:
    """Return whether two dotted keys are equal, or one is a section that holds the other."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted keys; lists and empty sections become JSON text."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{key}.")
        elif isinstance(value, list | tuple | Mapping):
            result[key] = json.dumps(value, sort_keys=True)
        else:
            result[key] = value
    return result


def setting_text(value: Any) -> str:
    """Return a value as a short string: strings unchanged, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest unique suffix of each dotted key."""
    shared = Counter(ending for key in keys for ending in _endings(key))
    return {key: next((e for e in _endings(key) if shared[e] == 1), key) for key in keys}


def _endings(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def _parents(key: str) -> Iterator[str]:
    while "." in key:
        key = key.rpartition(".")[0]
        yield key


def _names(model: type[Settings], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield every dotted name, and whether it accepts any mapping."""
    for name, field in model.model_fields.items():
        options = _options(field.annotation)
        yield f"{prefix}{name}", any((get_origin(o) or o) is dict for o in options)
        nested = nested_settings(field.annotation, field.metadata)
        below = [pair for inner in nested for pair in _names(inner, f"{prefix}{name}.")]
        yield from dict(below).items()  # classes that may stand in one place share names


def _options(annotation: Any) -> tuple[Any, ...]:
    union = get_origin(annotation) in (Union, UnionType)
    return get_args(annotation) if union else (annotation,)
