"""Checks of the plain values that heads and losses are built from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gare_cache.errors import ConfigError


def with_defaults(
    what: str, given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Complete a settings mapping with its defaults.

    Args:
        what: whose settings these are, for the message: ``"aggregator 'lstm'"``.
        given: the settings given.
        defaults: every known setting with its default.

    Returns:
        A new dict with exactly the keys of ``defaults``.

    Raises:
        ConfigError: a key of ``given`` is unknown; the message lists the known ones.
    """
    unknown = [key for key in given if key not in defaults]
    if unknown:
        raise ConfigError(
            f"unknown setting {unknown[0]!r} of {what}; known: {', '.join(sorted(defaults))}"
        )
    return {**defaults, **given}


def require_count(what: str, value: Any) -> None:
    """Check that a setting is a whole number of at least 1.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{what} is {value!r}; it must be a whole number of at least 1")


def require_number(what: str, value: Any, *, above_zero: bool) -> None:
    """Check that a setting is a finite number, 0 or above, or above 0.

    Raises:
        ConfigError: it is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (above_zero and value == 0):
        allowed = "a finite number above 0" if above_zero else "a finite number, 0 or above"
        raise ConfigError(f"{what} is {value!r}; it must be {allowed}")


def require_whole(what: str, value: Any) -> None:
    """Check that a setting is a whole number, 0 or above.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{what} is {value!r}; it must be a whole number, 0 or above")


def require_bool(what: str, value: Any) -> None:
    """Check that a setting is true or false.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{what} is {value!r}; it must be true or false")
