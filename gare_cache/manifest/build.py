"""Group captions by video, assign the videos to splits and find their files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gare_cache.annotations.grammar import PARAGRAPH, paragraph, video_stem
from gare_cache.annotations.record import AnnotationRecord
from gare_cache.errors import AnnotationError, ConfigError, counted, unknown_name
from gare_cache.manifest.files import VideoFiles
from gare_cache.manifest.splits import assign_splits
from gare_cache.manifest.tables import CAPTION_SCHEMA, VIDEO_SCHEMA, Manifest

CAPTIONS = ("each", PARAGRAPH)


@dataclass(frozen=True)
class _Item:
    """A video, or a clip of one, and the file that it lies in.

    Attributes:
        video_id: id of the whole video.
        path: its file; None if there is none.
        source: the least id of the videos of that file, which may have several links.
        extension: that of the annotated name, in lower case, if there is no file.
        start_seconds: start of the clip; None for the whole video.
        end_seconds: end of the clip; None for the whole video, or to its end.
    """

    video_id: str
    path: Path | None
    source: str
    extension: str
    start_seconds: float | None
    end_seconds: float | None

    @property
    def item_id(self) -> str:
        """The video's id, with ``@start-end`` for a clip, to the last digit of its times."""
        if self.start_seconds is None:
            return self.video_id
        end = "" if self.end_seconds is None else _digits(self.end_seconds)
        return f"{self.video_id}@{_digits(self.start_seconds)}-{end}"


def build_manifest(
    records: Sequence[AnnotationRecord],
    video_roots: Sequence[Path],
    *,
    val_fraction: float,
    test_fraction: float,
    captions: str = "each",
) -> Manifest:
    """Group captions by video, assign every video to a split, and find its file.

    Names of one file are one video, whose id is the shortest of them without extension. Splits
    that the annotations leave out are assigned by ``gare_cache.manifest.splits.assign_splits``; all
    clips of a video go to the same split.

    Args:
        records: captions in the order of the file, which numbers them; videos without captions
            are listed, too.
        video_roots: folders searched with all their subfolders; none if the features are
            imported and no video is needed.
        val_fraction: share of the videos, in [0, 1).
        test_fraction: share of the videos, in [0, 1).
        captions: ``each``: every sentence is a caption; ``paragraph``: a video's sentences,
            joined in order with spaces, form a single caption.

    Returns:
        The manifest: videos in the order of their first caption. A clip's id is
        ``video@start-end``; a caption's is ``video_id#k``, k its ``caption_key`` or else its
        number among the video's captions, from 0, and ``video_id#paragraph`` for a paragraph.

    Raises:
        ConfigError: ``captions`` is neither of the two.
        AnnotationError: a root is not a folder, two files match a name, two videos would have one
            id, a file is in two splits, or the roots hold no annotated video at all.
    """
    if captions not in CAPTIONS:
        raise ConfigError(unknown_name("dataset.captions", captions, CAPTIONS))
    files = VideoFiles(video_roots)
    items = _items(records, files)
    captions_of: dict[str, list[AnnotationRecord]] = defaultdict(list)
    for item, record in zip(items, records, strict=True):
        captions_of[item.item_id].append(record)
    item_of = {item.item_id: item for item in items}
    if video_roots and all(item.path is None for item in items):
        raise AnnotationError(
            f"none of the {counted(len(item_of), 'annotated video')} lies under "
            f"{', '.join(str(root.absolute()) for root in video_roots)} "
            f"({counted(files.count, 'video file')} "
            f"there; dataset.video_roots); the first is {files.describe(records[0])}"
        )
    split_of = assign_splits(
        _annotated_splits(items, records), val_fraction=val_fraction, test_fraction=test_fraction
    )
    splits = {id_: split_of[item.source] for id_, item in item_of.items()}
    return Manifest(
        videos=pa.Table.from_pylist(
            [
                _video_row(id_, item_of[id_], splits[id_], files.describe(rows[0]))
                for id_, rows in captions_of.items()
            ],
            schema=VIDEO_SCHEMA,
        ),
        captions=pa.Table.from_pylist(
            [
                {
                    "caption_id": f"{id_}#{number if row.caption_key is None else row.caption_key}",
                    "video_id": id_,
                    "split": splits[id_],
                    "caption": row.caption,
                }
                for id_, rows in captions_of.items()
                for number, row in enumerate([_paragraph(rows)] if captions == PARAGRAPH else rows)
                if row.caption is not None
            ],
            schema=CAPTION_SCHEMA,
        ),
    )


def _items(records: Sequence[AnnotationRecord], files: VideoFiles) -> list[_Item]:
    names = [files.normalise(record.video) for record in records]
    # A file of the same name below several roots, by links, is one. Links of other names stay
    # apart, for stores of content link equal videos of a benchmark to one file.
    first: dict[tuple[str, str], Path] = {}
    paths = [
        path and first.setdefault((os.path.realpath(path), path.name), path)
        for path in (files.find(record) for record in records)
    ]
    names_of: dict[Path, set[str]] = defaultdict(set)
    for name, path in zip(names, paths, strict=True):
        if path:
            names_of[path].add(video_stem(name))
    id_of = {
        path: min(stems, key=lambda stem: (len(stem), stem)) for path, stems in names_of.items()
    }
    source_of: dict[str, str] = {}
    for path, id_ in sorted(id_of.items(), key=lambda pair: pair[1]):
        source_of.setdefault(os.path.realpath(path), id_)
    items = [
        _Item(
            id_of[path] if path else video_stem(name),
            path,
            source_of[os.path.realpath(path)] if path else video_stem(name),
            "" if path else name.removeprefix(video_stem(name)).lower(),
            *_interval(record),
        )
        for name, path, record in zip(names, paths, records, strict=True)
    ]
    _check_ids(items, records)
    return items


def _interval(record: AnnotationRecord) -> tuple[float | None, float | None]:
    # One interval has one form: from 0 to the end is the whole video, no start is 0.
    start = (record.start_seconds or 0.0) + 0.0
    return (start, record.end_seconds) if start or record.end_seconds is not None else (None, None)


def _check_ids(items: Sequence[_Item], records: Sequence[AnnotationRecord]) -> None:
    first: dict[str, tuple[_Item, AnnotationRecord]] = {}
    for item, record in zip(items, records, strict=True):
        for id_ in (item.video_id, item.item_id):
            other, earlier = first.setdefault(id_, (item, record))
            if item.extension and not other.extension:
                first[id_] = (item, record)
            if _differ(item, other, whole=id_ == item.video_id):
                raise AnnotationError(
                    f"{record.origin}: {_typed(record)}: its id would be {id_!r}, which is that of "
                    f"{_typed(earlier)} ({earlier.origin}); rename one of the files"
                )


def _differ(one: _Item, other: _Item, *, whole: bool) -> bool:
    if one.extension and other.extension and one.extension != other.extension:
        return True
    if whole:
        return (one.video_id, one.path) != (other.video_id, other.path)
    return replace(one, extension="") != replace(other, extension="")


def _typed(record: AnnotationRecord) -> str:
    if record.start_seconds is None and record.end_seconds is None:
        return record.video
    return f"{record.video} from {record.start_seconds or 0.0} s to {record.end_seconds or 'end'}"


def _annotated_splits(
    items: Sequence[_Item], records: Sequence[AnnotationRecord]
) -> dict[str, str | None]:
    """Return source -> annotated split; a file, under whatever name, has one."""
    first: dict[str, AnnotationRecord] = {}
    for item, record in zip(items, records, strict=True):
        earlier = first.setdefault(item.source, record)
        if earlier.split != record.split:
            places = " and ".join(
                f"{row.split or 'none'} ({row.origin}: {row.video})" for row in (earlier, record)
            )
            raise AnnotationError(f"video {item.video_id!r} is in two splits: {places}")
    return {item.source: record.split for item, record in zip(items, records, strict=True)}


def _video_row(id_: str, item: _Item, split: str, annotated: str) -> dict[str, Any]:
    stat = item.path.stat() if item.path else None
    return {
        "video_id": id_,
        "split": split,
        "path": str(item.path) if item.path else None,
        "start_seconds": item.start_seconds,
        "end_seconds": item.end_seconds,
        "annotated": annotated,
        "size_bytes": stat.st_size if stat else None,
        "mtime_ns": stat.st_mtime_ns if stat else None,
    }


def _paragraph(rows: Sequence[AnnotationRecord]) -> AnnotationRecord:
    # A distinct key, so that the paragraph is never mistaken for the first sentence, id#0.
    sentences = [row.caption for row in rows if row.caption is not None]
    text = paragraph(sentences) if sentences else None
    return replace(rows[0], caption=text, caption_key=PARAGRAPH)


def _digits(seconds: float) -> str:
    return np.format_float_positional(seconds, trim="-")
