"""Expansion of a study: the product of its axes as variants with checked settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from gare_cache.config import Params, parse_params
from gare_cache.errors import ConfigError, unknown_name
from gare_cache.evaluation.normalisers.registry import RAW, NormaliserChoice, read_choice
from gare_cache.studies.setting_keys import overlap, setting_text, with_changes
from gare_cache.studies.study import AxisValue, Study

# Settings that decide how ranks are counted; they must be the same for all rows of a table.
PROTOCOL = ("captions", "v2t_convention", "missing")


@dataclass(frozen=True)
class Variant:
    """A variant: one combination of axis values, and one row of the study's table.

    Attributes:
        name: the labels of its axis values, joined.
        axis_values: axis -> name of its value.
        changes: dotted setting -> value, without the changes shared by all variants.
        params: its settings, still with the seed of the base.
    """

    name: str
    axis_values: Mapping[str, str]
    changes: Mapping[str, Any]
    params: Params

    def with_seed(self, seed: int) -> Params:
        """Return the settings of the run with this seed."""
        train = self.params.train.model_copy(update={"seed": seed})
        return self.params.model_copy(update={"train": train})


def expand(study: Study, base: Mapping[str, Any]) -> tuple[Variant, ...]:
    """Return all variants of a study: the product of its axes, the last axis fastest.

    Args:
        study: the study.
        base: content of its params file.

    Raises:
        ConfigError: there is no axis, two axes change the same setting, two variants have equal
            settings or different protocols, the reference or a published row is not a variant, or
            a variant's settings are invalid.
    """
    if not study.axes:
        raise ConfigError("axes is empty, so there is no variant; give at least one axis")
    _refuse_shared_settings(study)
    common = with_changes(
        base,
        {
            **study.settings,
            **{f"evaluate.{key}": value for key, value in study.protocol.items()},
            "evaluate.split": "val",
        },
    )
    combined = product(*(axis.values for axis in study.axes))
    variants = tuple(_variant(study, common, values) for values in combined)
    names = [variant.name for variant in variants]
    if study.reference not in names:
        raise ConfigError(f"reference: {unknown_name('variant', study.reference, names)}")
    for name in () if study.published is None else study.published.rows:
        if name not in names:
            raise ConfigError(f"published.rows: {unknown_name('variant', name, names)}")
    _refuse_equal_settings(variants)
    _require_one_protocol(variants)
    return variants


def row_normaliser(params: Params) -> NormaliserChoice | None:
    """Return the normaliser applied before a row is scored; None for raw scores.

    Raises:
        ConfigError: there is more than one.
    """
    choices = [read_choice(entry) for entry in params.evaluate.normalisers]
    choices = [choice for choice in choices if choice.kind != RAW]
    if len(choices) > 1:
        raise ConfigError(
            f"evaluate.normalisers names {len(choices)}; a row of a study is scored after one: "
            "make them values of an axis"
        )
    return choices[0] if choices else None


def _variant(study: Study, common: Mapping[str, Any], values: tuple[AxisValue, ...]) -> Variant:
    name = ", ".join(value.label for value in values)
    changes = {key: change for value in values for key, change in value.changes.items()}
    where = f"variant {name!r}"
    try:
        params = parse_params(with_changes(common, changes), where=where)
        row_normaliser(params)
    except ConfigError as err:
        message = str(err)
        raise ConfigError(message if message.startswith(where) else f"{where}: {message}") from err
    axis_values = {axis.name: value.name for axis, value in zip(study.axes, values, strict=True)}
    return Variant(name, axis_values, changes, params)


def _refuse_shared_settings(study: Study) -> None:
    for axis, other in combinations(study.axes, 2):
        keys, other_keys = ({k for v in a.values for k in v.changes} for a in (axis, other))
        for key in sorted(keys):
            for other_key in sorted(other_keys):
                if overlap(key, other_key):
                    raise ConfigError(
                        f"axes {axis.name!r} and {other.name!r} both change "
                        f"{max(key, other_key, key=len)}; let one of them do it"
                    )


def _refuse_equal_settings(variants: tuple[Variant, ...]) -> None:
    first: dict[str, str] = {}
    for variant in variants:
        settings = setting_text(variant.params.model_dump(exclude={"report"}))
        if settings in first:
            raise ConfigError(
                f"variants {first[settings]!r} and {variant.name!r} have the same settings for "
                "training and evaluation; remove one of them"
            )
        first[settings] = variant.name
    names = [variant.name for variant in variants]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"two variants are named {twice[0]!r}; give their values other names")


def _require_one_protocol(variants: tuple[Variant, ...]) -> None:
    first = variants[0].params.evaluate
    for variant in variants[1:]:
        for key in PROTOCOL:
            value, other = getattr(variant.params.evaluate, key), getattr(first, key)
            if value != other:
                raise ConfigError(
                    f"evaluate.{key} is {value!r} for {variant.name!r} and {other!r} for "
                    f"{variants[0].name!r}; rows scored in different ways cannot be compared"
                )
