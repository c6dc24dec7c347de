"""Which variants of a study differ in one axis alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gare_cache.studies.report.content import StudyContent, Variant


@dataclass(frozen=True)
class AxisGroup:
    """Variants that agree on every axis but one.

    Attributes:
        title: what they agree on, ``layers 2, dropout 0.3``; empty with one axis.
        values: their values on the axis, in the axis' order.
        variants: one a value.
    """

    title: str
    values: Sequence[str]
    variants: Sequence[Variant]


def axis_groups(content: StudyContent, axis: str) -> list[AxisGroup]:
    """Group the variants that differ in ``axis`` alone; groups of one are left out.

    A variant without a value on an axis has the reference's, if that has one.

    Args:
        content: the study.
        axis: name of the axis.

    Returns:
        The reference's group first, then in the study's order. In a grid of 2 x 3 values the
        first axis has three groups of two; where one setting at a time is changed it has one.
    """
    others = [name for name in content.axes if name != axis]
    found: dict[tuple[str | None, ...], dict[str, Variant]] = {}
    for variant in content.variants:
        value = _value(content, variant, axis)
        if value is not None:
            key = tuple(_value(content, variant, name) for name in others)
            found.setdefault(key, {}).setdefault(value, variant)
    groups = []
    for key, by_value in found.items():
        values = [value for value in content.axes[axis] if value in by_value]
        if len(values) > 1:
            pairs = zip(others, key, strict=True)
            title = ", ".join(f"{name} {value}" for name, value in pairs if value is not None)
            groups.append(AxisGroup(title, values, [by_value[value] for value in values]))
    return sorted(groups, key=lambda group: not _holds_reference(content, group))


def ungrouped(content: StudyContent) -> list[Variant]:
    """Return the variants that stand in no group of any axis, the reference left out."""
    grouped = {
        variant.name
        for axis in content.axes
        for group in axis_groups(content, axis)
        for variant in group.variants
    }
    return [one for one in content.variants if one.name not in {*grouped, content.reference}]


def _value(content: StudyContent, variant: Variant, axis: str) -> str | None:
    return variant.axis_values.get(axis, content.reference_variant.axis_values.get(axis))


def _holds_reference(content: StudyContent, group: AxisGroup) -> bool:
    return any(variant.name == content.reference for variant in group.variants)
