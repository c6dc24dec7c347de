"""Check the fields of annotated objects: values of JSON, and intervals of time."""

from __future__ import annotations

from typing import Any

from gare_cache.annotations.text_files import shorten
from gare_cache.errors import AnnotationError


def field_of(origin: str, values: Any, name: str, kind: type | tuple[type, ...], noun: str) -> Any:
    """Return a value of a JSON object.

    Raises:
        AnnotationError: there is no object, or its value is missing or of another type.
    """
    if not isinstance(values, dict):
        raise AnnotationError(f"{origin} is {shorten(values)}; it must be a JSON object")
    if name not in values:
        raise AnnotationError(
            f"{origin} has no key {name!r} (found: {', '.join(map(str, values)) or 'none'}); "
            "fetch the official file again"
        )
    value = values[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise AnnotationError(f"{origin}: {name!r} is {shorten(value)}; it must be {noun}")
    return value


def check_interval(origin: str, pair: Any) -> tuple[float, float]:
    """Return start and end of an interval in seconds; it may be empty or reversed.

    Raises:
        AnnotationError: they are not two numbers from 0.
    """
    numbers = isinstance(pair, list | tuple) and [
        value for value in pair if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if not numbers or len(numbers) != 2 or len(pair) != 2 or not _are_times(numbers):
        raise AnnotationError(
            f"{origin}: interval {shorten(pair)}; it must be two times in s, >= 0"
        )
    return float(numbers[0]), float(numbers[1])


def check_clip(origin: str, pair: Any) -> tuple[float, float]:
    """Return the interval of a clip, which lasts some time.

    Raises:
        AnnotationError: as ``check_interval``, or no time lies between start and end.
    """
    start, end = check_interval(origin, pair)
    if start >= end:
        raise AnnotationError(
            f"{origin}: no time lies between start {start:g} s and end {end:g} s; correct the "
            "interval"
        )
    return start, end


def _are_times(numbers: list[float]) -> bool:
    return all(0 <= number < 2**53 for number in numbers)  # neither NaN nor infinite
