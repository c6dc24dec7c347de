"""The readers by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gare_cache.annotations.generic import read_generic
from gare_cache.annotations.record import AnnotationRecord
from gare_cache.errors import ConfigError, unknown_name

READERS: dict[str, Callable[[Path], list[AnnotationRecord]]] = {"generic": read_generic}


def read_annotations(reader: str, path: Path) -> list[AnnotationRecord]:
    """Read ``path`` with the reader of that name.

    Raises:
        ConfigError: no reader has the name.
        AnnotationError: the file is not as the reader expects.
    """
    if reader not in READERS:
        raise ConfigError(unknown_name("reader", reader, READERS))
    return READERS[reader](path)
