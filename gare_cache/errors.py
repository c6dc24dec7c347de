"""The package's errors and wording: a message says what is wrong, where, and what to do next."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

# errno -> what is wrong with the disk, what to do
DISK_CAUSES = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space"),
    errno.EFBIG: ("the limit of a file's size is reached", "raise `ulimit -f`"),
    errno.EROFS: ("the folder is read-only", "make it writable"),
    errno.EACCES: ("there is no permission to write", "make it writable"),
    errno.EPERM: ("there is no permission to write", "make it writable"),
    errno.EIO: ("the disk reports an input/output error", "check the disk"),
}


class GareCacheError(Exception):
    """Base of the package's errors; the CLI prints its message in one line and exits."""

    exit_code: ClassVar[int] = 2


class ConfigError(GareCacheError, ValueError):
    """A setting, flag or name is unknown, out of range or in conflict with another."""


class AnnotationError(GareCacheError, ValueError):
    """An annotation file or manifest is missing, malformed or contradicts itself."""


class DecodeError(GareCacheError, RuntimeError):
    """A video cannot be decoded, or has no frame in the requested range."""


class EncoderError(GareCacheError, ValueError):
    """A model or its weights cannot be loaded as requested."""


class CacheError(GareCacheError, RuntimeError):
    """A feature cache is missing, incomplete, locked or damaged."""


class FeatureFileError(GareCacheError, ValueError):
    """A feature file to import has an unknown layout, unknown ids or unusable values."""


class UnreadableFile(GareCacheError, ValueError):
    """A file is damaged, or is not of the kind that is read there."""


class LimitExceeded(UnreadableFile):
    """A file holds more than a limit allows (``gare_cache.limits``)."""


class FingerprintMismatch(CacheError):
    """Two artefacts that must share an identity (encoder, extraction, content) do not."""


class EnvironmentFailure(GareCacheError, OSError):
    """The machine cannot do what is asked: no disk space, no permission, a missing device."""

    exit_code: ClassVar[int] = 1


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the errors of the disk while writing ``path`` into ``EnvironmentFailure``.

    Raises:
        EnvironmentFailure: an error of ``DISK_CAUSES``, with its ``errno``; the message names the
            file and the remedy. Other ``OSError`` pass.
    """
    try:
        yield
    except OSError as err:
        if err.errno not in DISK_CAUSES or isinstance(err, EnvironmentFailure):
            raise
        wrong, advice = DISK_CAUSES[err.errno]
        failure = EnvironmentFailure(
            f"cannot write {path}: {wrong}; {advice}. Finished work is kept: run the same command "
            "again"
        )
        failure.errno = err.errno
        raise failure from err


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name.

    Args:
        kind: kind of the name, for example ``"model"``.
        name: the name given.
        known: the names that exist.

    Returns:
        ``unknown model 'ViT-B32'; did you mean 'ViT-B-32'?``, or the known names if none is
        similar.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"unknown {kind} {name!r}; did you mean {', '.join(map(repr, near))}?"
    shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    return f"unknown {kind} {name!r}; known: {shown}"


def counted(number: int, noun: str, verb: str = "") -> str:
    """Return a count with its noun: ``1 video``, ``1,000 videos``, ``2 queries``.

    Args:
        number: the count.
        noun: of one.
        verb: of several, which follows if given: ``1 video has``, ``2 videos have``.
    """
    return " ".join(filter(None, (f"{number:,}", plural(number, noun), agreeing(number, verb))))


def plural(number: int, noun: str) -> str:
    """Return a noun in the form that a count of it takes."""
    if number == 1:
        return noun
    if noun.endswith("y"):
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith("s") else "s")


def agreeing(number: int, verb: str) -> str:
    """Return the verb of several in the form that a count takes: ``has`` for 1 and ``have``."""
    return {"are": "is", "have": "has"}.get(verb, f"{verb}s") if verb and number == 1 else verb
