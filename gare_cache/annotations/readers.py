"""Registry of the annotation readers, and the settings that each of them uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gare_cache.annotations.activitynet import SIZES as ACTIVITYNET
from gare_cache.annotations.activitynet import read_activitynet
from gare_cache.annotations.didemo import SIZES as DIDEMO
from gare_cache.annotations.didemo import read_didemo
from gare_cache.annotations.folder import read_folder
from gare_cache.annotations.generic import read_generic
from gare_cache.annotations.grammar import Sizes, compare_sizes
from gare_cache.annotations.lsmdc import SIZES as LSMDC
from gare_cache.annotations.lsmdc import read_lsmdc
from gare_cache.annotations.moments import SIZES as MOMENTS
from gare_cache.annotations.moments import read_moments
from gare_cache.annotations.msrvtt import SIZES as MSRVTT
from gare_cache.annotations.msrvtt import read_msrvtt
from gare_cache.annotations.msvd import SIZES as MSVD
from gare_cache.annotations.msvd import read_msvd
from gare_cache.annotations.record import Annotations
from gare_cache.annotations.text_files import shorten
from gare_cache.annotations.tgif import SIZES as TGIF
from gare_cache.annotations.tgif import read_tgif
from gare_cache.annotations.vatex import SIZES as VATEX
from gare_cache.annotations.vatex import read_vatex
from gare_cache.annotations.youcook2 import SIZES as YOUCOOK2
from gare_cache.annotations.youcook2 import read_youcook2
from gare_cache.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class Reader:
    """A reader of annotations and the settings that it takes.

    Attributes:
        read: function of the path and, if the data set has protocols, of the protocol's name.
        sizes: the data set's protocols and the official size of each split; empty if the file
            names the splits.
        joins: whether ``dataset.captions`` may join the sentences of a video to a paragraph.
        fractions: default shares of videos that a hash assigns to splits that the annotations may
            leave out; no entry for a split that they always name.
    """

    read: Callable[..., Annotations]
    sizes: Mapping[str, Sizes] = field(default_factory=dict)
    joins: bool = True
    fractions: Mapping[str, float] = field(default_factory=dict)

    @property
    def protocols(self) -> tuple[str, ...]:
        """Names of the protocols."""
        return tuple(self.sizes)


READERS: dict[str, Reader] = {
    "generic": Reader(read_generic, fractions={"val_fraction": 0.1, "test_fraction": 0.1}),
    "folder": Reader(read_folder, joins=False),
    "msrvtt": Reader(read_msrvtt, sizes=MSRVTT, joins=False),
    "didemo": Reader(read_didemo, sizes=DIDEMO, joins=False),
    "activitynet": Reader(
        read_activitynet, sizes=ACTIVITYNET, joins=False, fractions={"val_fraction": 0.05}
    ),
    "msvd": Reader(read_msvd, sizes=MSVD, joins=False),
    "lsmdc": Reader(read_lsmdc, sizes=LSMDC, joins=False),
    "youcook2": Reader(read_youcook2, sizes=YOUCOOK2, joins=False, fractions={"val_fraction": 0.1}),
    "tgif": Reader(read_tgif, sizes=TGIF, joins=False),
    "vatex": Reader(read_vatex, sizes=VATEX, joins=False),
    "moments": Reader(
        read_moments,
        sizes=MOMENTS,
        joins=False,
        fractions={"val_fraction": 0.1, "test_fraction": 0.1},
    ),
}


def read_annotations(reader: str, path: Path, protocol: str | None = None) -> Annotations:
    """Read annotations with a named reader.

    Raises:
        ConfigError: the reader or its protocol is unknown, the protocol is missing, or the reader
            has no protocols.
        AnnotationError: the files are not in the expected form.
    """
    entry = _find(reader)
    if not entry.protocols:
        if protocol is not None:
            raise ConfigError(
                f"dataset.protocol is {protocol!r}, but reader {reader!r} has no protocols: the "
                "file names the splits; leave dataset.protocol out"
            )
        return _with_line_breaks(entry.read(path))
    if protocol is None:
        raise ConfigError(
            f"dataset.protocol is not set; reader {reader!r} needs one of "
            f"{', '.join(entry.protocols)}"
        )
    if protocol not in entry.protocols:
        raise ConfigError(unknown_name(f"protocol of reader {reader!r}", protocol, entry.protocols))
    annotations = entry.read(path, protocol)
    warnings = compare_sizes(annotations.records, entry.sizes[protocol])
    return _with_line_breaks(replace(annotations, notes=(*annotations.notes, *warnings)))


def official_sizes(reader: str, protocol: str | None) -> dict[str, tuple[int | None, int | None]]:
    """Return videos and captions of the official files by split; empty without official sizes.

    Raises:
        ConfigError: the reader is unknown.
    """
    return dict(_find(reader).sizes.get(protocol or "", {}))


def split_fractions(reader: str, given: Mapping[str, float | None]) -> dict[str, float]:
    """Fill in the default shares of the splits that a hash assigns.

    Args:
        reader: name of the reader.
        given: ``val_fraction`` and ``test_fraction``; None takes the reader's default.

    Returns:
        The same keys; 0 for a split that the reader's annotations always name.

    Raises:
        ConfigError: an unknown reader, or a share is given for a split that is always named.
    """
    defaults = _find(reader).fractions
    for name, value in given.items():
        if value is not None and name not in defaults:
            raise ConfigError(
                f"dataset.{name} is {value:g}, but reader {reader!r} takes that split from the "
                f"official lists; leave dataset.{name} out"
            )
    return {
        name: defaults.get(name, 0.0) if value is None else value for name, value in given.items()
    }


def check_joins(reader: str) -> None:
    """Check that the sentences of a video may be joined to a paragraph.

    Raises:
        ConfigError: the reader is unknown, or its protocols say what is joined.
    """
    if not _find(reader).joins:
        raise ConfigError(
            f"dataset.captions is 'paragraph', but the protocols of reader {reader!r} say which "
            "sentences are one caption; set dataset.captions to each"
        )


def _with_line_breaks(annotations: Annotations) -> Annotations:
    """Add a note that counts captions with a line break: a stray quote joins rows."""
    broken = [
        (record.origin, record.caption)
        for record in annotations.records
        if record.caption is not None and len(record.caption.splitlines()) > 1
    ]
    if not broken:
        return annotations
    origin, caption = broken[0]
    note = (
        f"warning: {len(broken):,} of {len(annotations.records):,} captions hold a line "
        f"break; the first is {origin}: {shorten(caption)} (a stray quote joins rows)"
    )
    return replace(annotations, notes=(*annotations.notes, note))


def _find(reader: str) -> Reader:
    if reader not in READERS:
        raise ConfigError(unknown_name("reader", reader, READERS))
    return READERS[reader]
