"""Settings by dotted key: list, check, change, flatten and print them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from gare_cache.config import Params
from gare_cache.config import with_changes as with_changes
from gare_cache.errors import ConfigError, unknown_name
from gare_cache.limits import parse_yaml
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


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Return the changes that ``--set`` names: dotted setting -> value.

    Args:
        assignments: ``dotted.setting=value`` strings, with values in YAML.

    Raises:
        ConfigError: an assignment is malformed, or a setting is given twice.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign:
            raise ConfigError(f"--set {assignment}: write SETTING=VALUE, such as train.epochs=5")
        if key in changes:
            raise ConfigError(f"--set {assignment}: {key} is set twice")
        try:
            changes[key] = parse_yaml(key, value)
        except ValueError as err:
            raise ConfigError(f"--set {assignment}: the value is not valid YAML") from err
    return changes


def stage_changes(
    stage: str, sections: Sequence[str], assignments: Sequence[str], *, seed: int | None = None
) -> dict[str, Any]:
    """Return the changes of a stage's ``--set`` and ``--seed``.

    Args:
        stage: its name, for messages.
        sections: of params.yaml that the stage reads; other changes would have no effect.
        assignments: as for ``parse_assignments``.
        seed: another name for ``train.seed``; None leaves it.

    Raises:
        ConfigError: as ``parse_assignments``, or a setting is unknown, of another stage, or the
            seed is given in two ways.
    """
    changes = parse_assignments(assignments)
    read = " and ".join(filter(None, (", ".join(sections[:-1]), sections[-1])))
    for key in changes:
        try:
            check_setting(key)
        except ConfigError as err:
            raise ConfigError(f"--set: {err}") from err
        if key.partition(".")[0] not in sections:
            raise ConfigError(
                f"--set {key}: `gare-cache {stage}` reads the settings of {read} alone; set it in "
                "params.yaml and run the stages that read it"
            )
    if seed is not None:
        if any(overlap(key, "train.seed") for key in changes):
            raise ConfigError(f"--seed {seed} and --set both give train.seed; leave one out")
        changes["train.seed"] = seed
    return changes


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
