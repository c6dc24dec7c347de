"""Every error that a user can meet; a message says what is wrong, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class GareCacheError(Exception):
    """Base of the package's errors; the CLI prints its message in one line and exits."""

    exit_code: ClassVar[int] = 2


class ConfigError(GareCacheError, ValueError):
    """A setting, flag or name is unknown, out of range or in conflict with another."""


class AnnotationError(GareCacheError, ValueError):
    """An annotation file or manifest is missing, malformed or contradicts itself."""


class DecodeError(GareCacheError, RuntimeError):
    """A video cannot be decoded, or has no frame in the asked range."""


class EncoderError(GareCacheError, ValueError):
    """A model or its weights cannot be loaded as asked."""


class CacheError(GareCacheError, RuntimeError):
    """A feature cache is missing, incomplete, locked or damaged."""


class FeatureFileError(GareCacheError, ValueError):
    """A file of somebody's features has another layout, other ids or values that cannot be used."""


class FingerprintMismatch(CacheError):
    """Two artefacts that must share an identity (encoder, extraction, content) do not."""


class EnvironmentFailure(GareCacheError, OSError):
    """The machine failed the program: no disk space, no permission, a missing device."""

    exit_code: ClassVar[int] = 1


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Word the message for a name that is in no table.

    Args:
        kind: what was looked up, for example ``"model"``.
        name: the name given.
        known: the names that exist.

    Returns:
        ``unknown model 'ViT-B32'; did you mean 'ViT-B-32'?``, or the known names where none is
        near and they are few.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"unknown {kind} {name!r}; did you mean {', '.join(map(repr, near))}?"
    shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    return f"unknown {kind} {name!r}; known: {shown}"
