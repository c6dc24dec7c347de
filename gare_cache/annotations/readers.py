"""The readers by name, and which settings each of them uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gare_cache.annotations.generic import read_generic
from gare_cache.annotations.msrvtt import PROTOCOLS as MSRVTT_PROTOCOLS
from gare_cache.annotations.msrvtt import read_msrvtt
from gare_cache.annotations.record import Annotations
from gare_cache.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class Reader:
    """How a data set is read.

    Attributes:
        read: takes the path and, where there are several, the protocol.
        protocols: names of the data set's splittings; empty where it has one.
        joins: whether the sentences of a video can be joined to a paragraph.
        fractions: default shares of the videos that a hash puts into a split that the annotations
            do not name; without an entry where they always name it.
    """

    read: Callable[..., Annotations]
    protocols: tuple[str, ...] = ()
    joins: bool = True
    fractions: Mapping[str, float] = field(default_factory=dict)


READERS: dict[str, Reader] = {
    "generic": Reader(read_generic, fractions={"val_fraction": 0.1, "test_fraction": 0.1}),
    "msrvtt": Reader(read_msrvtt, protocols=MSRVTT_PROTOCOLS, joins=False),
}


def read_annotations(reader: str, path: Path, protocol: str | None = None) -> Annotations:
    """Read ``path`` with the reader of that name.

    Raises:
        ConfigError: no reader has the name, the reader has protocols and none of them is given,
            or it has none and one is.
        AnnotationError: the files are not as the reader expects.
    """
    found = _find(reader)
    if not found.protocols:
        if protocol is not None:
            raise ConfigError(
                f"dataset.protocol is {protocol!r}, but reader {reader!r} knows no protocols: the "
                "file names the splits; leave dataset.protocol out"
            )
        return found.read(path)
    if protocol is None:
        raise ConfigError(
            f"dataset.protocol is not set; reader {reader!r} needs one of "
            f"{', '.join(found.protocols)}"
        )
    if protocol not in found.protocols:
        raise ConfigError(unknown_name(f"protocol of reader {reader!r}", protocol, found.protocols))
    return found.read(path, protocol)


def split_fractions(reader: str, given: Mapping[str, float | None]) -> dict[str, float]:
    """Complete the shares of the splits that a hash cuts.

    Args:
        reader: its name.
        given: ``val_fraction`` and ``test_fraction``; None takes the reader's default.

    Returns:
        The same keys; 0 for a split that the reader's annotations always name.

    Raises:
        ConfigError: an unknown reader, or a share is given for a split that is always named.
    """
    found = _find(reader)
    for name, value in given.items():
        if value is not None and name not in found.fractions:
            raise ConfigError(
                f"dataset.{name} is {value:g}, but reader {reader!r} takes that split from the "
                f"official lists; leave dataset.{name} out"
            )
    return {
        name: found.fractions.get(name, 0.0) if value is None else value
        for name, value in given.items()
    }


def check_joins(reader: str) -> None:
    """Check that the sentences of a video may be joined to a paragraph.

    Raises:
        ConfigError: an unknown reader, or one of a data set whose sentences each describe the
            whole video.
    """
    if not _find(reader).joins:
        raise ConfigError(
            f"dataset.captions is 'paragraph', but each sentence of reader {reader!r} describes "
            "the whole video, and its protocols score them one by one; set dataset.captions to each"
        )


def _find(reader: str) -> Reader:
    if reader not in READERS:
        raise ConfigError(unknown_name("reader", reader, READERS))
    return READERS[reader]
