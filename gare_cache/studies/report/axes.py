"""Groups of variants that differ in a single axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gare_cache.studies.result import StudyResult
from gare_cache.studies.table import StudyRow


@dataclass(frozen=True)
class AxisGroup:
    """Variants that agree on every axis but one.

    Attributes:
        title: their shared values, ``layers 2, dropout 0.3``; empty with one axis.
        values: their values on the axis, in the axis' order.
        variants: one per value.
    """

    title: str
    values: Sequence[str]
    variants: Sequence[StudyRow]


def axis_groups(result: StudyResult, axis: str) -> list[AxisGroup]:
    """Group the variants that differ only in ``axis``; single variants are left out.

    A variant without a value on an axis takes the reference's, if it has one.

    Args:
        result: the study.
        axis: name of the axis.

    Returns:
        The reference's group first, then in the study's order. In a grid of 2 x 3 values the
        first axis has three groups of two; if one setting is changed at a time it has one.
    """
    others = [name for name in result.axes if name != axis]
    rows_by_rest: dict[tuple[str | None, ...], dict[str, StudyRow]] = {}
    for variant in result.rows:
        value = _value(result, variant, axis)
        if value is not None:
            key = tuple(_value(result, variant, name) for name in others)
            rows_by_rest.setdefault(key, {}).setdefault(value, variant)
    groups = []
    for key, by_value in rows_by_rest.items():
        values = [value for value in result.axes[axis] if value in by_value]
        if len(values) > 1:
            pairs = zip(others, key, strict=True)
            title = ", ".join(f"{name} {value}" for name, value in pairs if value is not None)
            groups.append(AxisGroup(title, values, [by_value[value] for value in values]))
    return sorted(groups, key=lambda group: not _holds_reference(result, group))


def ungrouped(result: StudyResult) -> list[StudyRow]:
    """Return the variants that are in no group of any axis, without the reference."""
    grouped = {
        variant.name
        for axis in result.axes
        for group in axis_groups(result, axis)
        for variant in group.variants
    }
    return [row for row in result.rows if row.name not in {*grouped, result.reference}]


def _value(result: StudyResult, variant: StudyRow, axis: str) -> str | None:
    return variant.axis_values.get(axis, result.reference_row.axis_values.get(axis))


def _holds_reference(result: StudyResult, group: AxisGroup) -> bool:
    return any(variant.name == result.reference for variant in group.variants)
