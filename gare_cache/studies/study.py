"""Read and check a study file."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from gare_cache.annotations.settings import DatasetSettings
from gare_cache.errors import ConfigError, unknown_name
from gare_cache.evaluation.metrics import DIRECTIONS, RECALL_AT
from gare_cache.limits import read_yaml
from gare_cache.studies.setting_keys import (
    check_setting,
    parse_assignments,
    setting_text,
    short_names,
)

METRICS = (*(f"R@{k}" for k in RECALL_AT), "MdR", "MnR")
METRIC_KEYS = tuple(f"{direction}.{metric}" for direction in DIRECTIONS for metric in METRICS)
_KEYS = ("title", "question", "base", "set", "axes", "seeds", "reference", "evaluate", "published")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class AxisValue:
    """One value of an axis.

    Attributes:
        name: its name, or the setting's value as text.
        label: its part of the names of variants.
        changes: dotted setting -> value.
    """

    name: str
    label: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """An axis of a study: a setting, or named sets of settings, with its values."""

    name: str
    values: tuple[AxisValue, ...]


@dataclass(frozen=True)
class Published:
    """Published numbers for the rows of a study.

    Attributes:
        source: where they were published.
        note: why the measured numbers may differ.
        dataset: settings of the data set that they were measured on, with the values that count
            as the same; they stand beside numbers of no other.
        rows: variant -> ``{"t2v.R@1": 47.4}``.
    """

    source: str
    note: str
    dataset: Mapping[str, tuple[Any, ...]]
    rows: Mapping[str, Mapping[str, float]]

    def is_of(self, dataset: DatasetSettings) -> bool:
        """Whether the numbers were measured on this data set."""
        return all(getattr(dataset, key) in values for key, values in self.dataset.items())


@dataclass(frozen=True)
class Study:
    """Content of a study file.

    Attributes:
        name: of the file, without its suffix.
        base: a params file, relative to the project's folder, or a preset.
        settings: dotted settings changed in all variants.
        axes: their product gives the variants.
        seeds: of every variant.
        reference: name of the variant with which the others are compared.
        protocol: settings of ``evaluate`` changed in all variants.
        title: one line.
        question: the question that the study answers.
        published: numbers shown beside the measured ones.
    """

    name: str
    base: str
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    reference: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    question: str = ""
    published: Published | None = None


def read_study(path: Path) -> Study:
    """Read and check a study file.

    Raises:
        ConfigError: it is missing, not valid YAML, repeats a key, or a part of it is wrong.
        LimitExceeded: it is too large, or aliases or nesting make it so.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; name a study file, see docs/studies.md")
    if not _NAME.fullmatch(path.stem):
        raise ConfigError(
            f"{path}: a study's results are named after its file; use letters, digits, _, . and -"
        )
    content = read_yaml(path, _UniqueKeys)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no study; it must give base, axes, seeds and reference")
    try:
        return parse_study(path.stem, content)
    except ConfigError as err:
        raise ConfigError(f"{path}: {err}") from err


def parse_study(name: str, content: Mapping[str, Any]) -> Study:
    """Check a study given as plain values.

    Args:
        name: of the study.
        content: of a study file.

    Raises:
        ConfigError: with the wrong key and its allowed values.
    """
    for key in content:
        if key not in _KEYS:
            raise ConfigError(unknown_name("key of a study", str(key), _KEYS))
    for key in ("base", "axes", "seeds", "reference"):
        if key not in content:
            raise ConfigError(f"{key} is missing")
    protocol = _mapping("evaluate", content.get("evaluate", {}))
    for key in protocol:
        _check_changed(f"evaluate.{key}")
    return Study(
        name=name,
        base=_text("base", content["base"]),
        axes=_axes(content["axes"]),
        seeds=_seeds(content["seeds"]),
        reference=_text("reference", content["reference"]),
        settings=_changes("set", content.get("set", {})),
        protocol=protocol,
        title=_text("title", content.get("title", "")),
        question=_text("question", content.get("question", "")),
        published=_published(content.get("published")),
    )


def with_settings(study: Study, assignments: Sequence[str]) -> Study:
    """Change settings of all variants, like ``set`` in the file.

    Args:
        study: the study.
        assignments: ``dotted.setting=value`` strings, with values in YAML.

    Raises:
        ConfigError: an assignment is malformed, or its setting is unknown.
    """
    changes = _changes("--set", parse_assignments(assignments))
    return replace(study, settings={**study.settings, **changes})


def _axes(content: Any) -> tuple[Axis, ...]:
    axes = _mapping("axes", content)
    labels = short_names([name for name, values in axes.items() if isinstance(values, list)])
    return tuple(_axis(name, values, labels.get(name, name)) for name, values in axes.items())


def _axis(name: str, values: Any, label: str) -> Axis:
    if isinstance(values, list) and values:
        _check_changed(name)
        texts = [setting_text(value) for value in values]
        return Axis(
            name,
            tuple(
                AxisValue(text, f"{label}={text}", {name: value})
                for text, value in zip(texts, values, strict=True)
            ),
        )
    if isinstance(values, dict) and values:
        return Axis(
            name,
            tuple(
                AxisValue(str(value), str(value), _changes(f"axes.{name}.{value}", changes))
                for value, changes in values.items()
            ),
        )
    raise ConfigError(
        f"axes.{name} is {values!r}, so there is no variant; give a list of the setting's values, "
        "or names with the settings of each"
    )


def _changes(where: str, content: Any) -> dict[str, Any]:
    changes = _mapping(where, {} if content is None else content)
    for key in changes:
        try:
            _check_changed(key)
        except ConfigError as err:
            raise ConfigError(f"{where}: {err}") from err
    return changes


def _check_changed(key: str) -> None:
    if key == "train.seed":
        raise ConfigError("train.seed is set by `seeds`; give the seeds there")
    if key == "evaluate.split":
        raise ConfigError("evaluate.split is val, or test with --final; leave it out")
    check_setting(key)


def _seeds(content: Any) -> tuple[int, ...]:
    whole = isinstance(content, list) and all(type(seed) is int and seed >= 0 for seed in content)
    if not whole or not content:
        raise ConfigError(f"seeds is {content!r}; give a list of whole numbers, such as [0, 1, 2]")
    twice = sorted({seed for seed in content if content.count(seed) > 1})
    if twice:
        raise ConfigError(f"seeds holds {twice[0]} twice; each seed is one run")
    return tuple(content)


def _published(content: Any) -> Published | None:
    if content is None:
        return None
    given = _mapping("published", content)
    known = ("source", "note", "dataset", "rows")
    for key in given:
        if key not in known:
            raise ConfigError(unknown_name("key of published", key, known))
    for key in ("source", "dataset", "rows"):
        if key not in given:
            raise ConfigError(f"published.{key} is missing")
    return Published(
        source=_text("published.source", given["source"]),
        note=_text("published.note", given.get("note", "")),
        dataset={
            key: _accepted(key, value)
            for key, value in _mapping("published.dataset", given["dataset"]).items()
        },
        rows={
            variant: _published_row(variant, row)
            for variant, row in _mapping("published.rows", given["rows"]).items()
        },
    )


def _accepted(key: str, value: Any) -> tuple[Any, ...]:
    if key not in DatasetSettings.model_fields:
        fields = DatasetSettings.model_fields
        raise ConfigError(unknown_name("key of published.dataset", key, fields))
    return tuple(value) if isinstance(value, list) else (value,)


def _published_row(variant: str, content: Any) -> dict[str, float]:
    row = _mapping(f"published.rows.{variant}", content)
    for key, value in row.items():
        if key not in METRIC_KEYS:
            raise ConfigError(unknown_name("metric", key, METRIC_KEYS))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"published.rows.{variant}.{key} is {value!r}; it must be a number")
    return {key: float(value) for key, value in row.items()}


def _mapping(where: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{where} is {content!r}; it must be a mapping of names to values")
    return {str(key): value for key, value in content.items()}


def _text(where: str, content: Any) -> str:
    if not isinstance(content, str):
        raise ConfigError(f"{where} is {content!r}; it must be a string")
    return content.strip()


class _UniqueKeys(yaml.SafeLoader):
    """YAML loader that raises an error for a repeated key instead of dropping the first."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    keys: Sequence[Any] = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is repeated", node.start_mark
            )
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
