"""Checks of the plain values that a head is built from."""

from __future__ import annotations

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
