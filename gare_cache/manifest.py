"""Manifest: checked tables of videos and captions with their splits and files."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gare_cache.annotations.record import SPLITS, AnnotationRecord
from gare_cache.errors import AnnotationError, ConfigError, unknown_name
from gare_cache.files import canonical_digest, write_parquet

VIDEO_EXTENSIONS = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".wmv",
        ".flv",
        ".mpg",
        ".mpeg",
        ".3gp",
        ".ts",
        ".ogv",
        ".gif",
    ]
)
VIDEO_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("split", pa.string()),
        ("path", pa.string()),  # null if the file is missing
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("size_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
    ]
)
CAPTION_SCHEMA = pa.schema(
    [
        ("caption_id", pa.string()),
        ("video_id", pa.string()),
        ("split", pa.string()),
        ("caption", pa.string()),
    ]
)
PARAGRAPH = "paragraph"
CAPTIONS = ("each", PARAGRAPH)
_SHOWN = 5


@dataclass(frozen=True)
class Manifest:
    """Items to encode: a table of videos and a table of captions (see the schemas)."""

    videos: pa.Table
    captions: pa.Table

    def digest(self, split: str | None = None) -> str:
        """Return the SHA-256 (hex) of ids, splits and captions, independent of the files.

        Args:
            split: restrict the digest to this split; None takes all.
        """
        tables = [self.videos.select(["video_id", "split"]), self.captions]
        if split is not None:
            tables = [table.filter(pc.equal(table["split"], split)) for table in tables]
        return canonical_digest([table.to_pylist() for table in tables])

    def write(self, folder: Path) -> None:
        """Write ``videos.parquet`` and ``captions.parquet``."""
        write_parquet(folder / "videos.parquet", self.videos)
        write_parquet(folder / "captions.parquet", self.captions)

    def summary(self) -> dict[str, Any]:
        """Return counts per split and the videos without a file.

        Returns:
            ``splits``: for each split its ``videos``, ``captions``, ``missing_videos``,
            ``repeated_captions`` (the same sentence again for the same video),
            ``shared_sentences`` (used for several videos) and
            ``captions_with_shared_sentence``; ``missing``: the ids without a file.
        """
        videos = self.videos.select(["video_id", "split", "path"]).to_pylist()
        missing = [row["video_id"] for row in videos if row["path"] is None]
        splits = {
            split: {
                "videos": sum(row["split"] == split for row in videos),
                "missing_videos": sum(row["split"] == split and not row["path"] for row in videos),
                **self._count_captions(split),
            }
            for split in SPLITS
        }
        return {"splits": splits, "missing": missing}

    def _count_captions(self, split: str) -> dict[str, int]:
        rows = [row for row in self.captions.to_pylist() if row["split"] == split]
        pairs = {(row["video_id"], row["caption"]) for row in rows}
        videos_of = Counter(caption for _, caption in pairs)
        shared = {caption for caption, videos in videos_of.items() if videos > 1}
        return {
            "captions": len(rows),
            "repeated_captions": len(rows) - len(pairs),
            "shared_sentences": len(shared),
            "captions_with_shared_sentence": sum(row["caption"] in shared for row in rows),
        }


def read_manifest(folder: Path) -> Manifest:
    """Read the tables that ``prepare`` wrote.

    Raises:
        AnnotationError: a table is missing or has other columns.
    """
    tables = []
    for name, schema in (("videos", VIDEO_SCHEMA), ("captions", CAPTION_SCHEMA)):
        path = folder / f"{name}.parquet"
        if not path.is_file():
            raise AnnotationError(f"{path} does not exist; run `gare-cache prepare` first")
        table = pq.read_table(path)
        if table.schema != schema:
            raise AnnotationError(
                f"{path} does not have the columns of a manifest; run `gare-cache prepare` again"
            )
        tables.append(table)
    return Manifest(*tables)


def build_manifest(
    records: Sequence[AnnotationRecord],
    video_roots: Sequence[Path],
    *,
    val_fraction: float,
    test_fraction: float,
    captions: str = "each",
) -> Manifest:
    """Group captions by video, assign every video to a split, and find its file.

    A video without an annotated split is assigned by a fixed hash of its id (SHA-256 as a number
    in [0, 1)): below ``test_fraction`` to test, in the next ``val_fraction`` to val, else to train.
    If splits are annotated but none is ``val``, the hash cuts ``val_fraction`` from train.

    Args:
        records: captions in the order of the file, which numbers them.
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
        AnnotationError: a root is not a folder, two files match a name, a video is in two
            splits, or the roots hold no annotated video at all.
    """
    if captions not in CAPTIONS:
        raise ConfigError(unknown_name("dataset.captions", captions, CAPTIONS))
    captions_of: dict[str, list[AnnotationRecord]] = defaultdict(list)
    for record in records:
        captions_of[item_id(record)].append(record)
    splits = _assign_splits(captions_of, val_fraction=val_fraction, test_fraction=test_fraction)
    files = _VideoFiles(video_roots)
    videos = [_video_row(id_, rows[0], splits[id_], files) for id_, rows in captions_of.items()]
    if video_roots and all(row["path"] is None for row in videos):
        raise AnnotationError(
            f"none of the {len(videos)} annotated videos lies under "
            f"{', '.join(map(str, video_roots))} ({files.count} video files there); the first is "
            f"{records[0].video!r}"
        )
    caption_rows = [
        {
            "caption_id": f"{id_}#{number if record.caption_key is None else record.caption_key}",
            "video_id": id_,
            "split": splits[id_],
            "caption": record.caption,
        }
        for id_, rows in captions_of.items()
        for number, record in enumerate([_paragraph(rows)] if captions == PARAGRAPH else rows)
    ]
    return Manifest(
        videos=pa.Table.from_pylist(videos, schema=VIDEO_SCHEMA),
        captions=pa.Table.from_pylist(caption_rows, schema=CAPTION_SCHEMA),
    )


def item_id(record: AnnotationRecord) -> str:
    """Return a record's video id: without video extension, with ``@start-end`` for a clip."""
    name, extension = os.path.splitext(record.video)
    stem = name if extension.lower() in VIDEO_EXTENSIONS else record.video
    if record.start_seconds is None and record.end_seconds is None:
        return stem
    start = "" if record.start_seconds is None else f"{record.start_seconds:g}"
    end = "" if record.end_seconds is None else f"{record.end_seconds:g}"
    return f"{stem}@{start}-{end}"


def hash_fraction(video_id: str) -> float:
    """Return a number in [0, 1) that depends on the id alone, the same on every machine."""
    return int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8]) / 2**64


def _paragraph(rows: Sequence[AnnotationRecord]) -> AnnotationRecord:
    # A distinct key, so that the paragraph is never mistaken for the first sentence, id#0.
    text = " ".join(row.caption for row in rows)
    return replace(rows[0], caption=text, caption_key=PARAGRAPH)


def _assign_splits(
    captions_of: Mapping[str, Sequence[AnnotationRecord]],
    *,
    val_fraction: float,
    test_fraction: float,
) -> dict[str, str]:
    annotated = {id_: _annotated_split(id_, rows) for id_, rows in captions_of.items()}
    cut_val = "train" in annotated.values() and "val" not in annotated.values()

    # All clips of a video go to the same split, so that no two splits share a file.
    def place(id_: str, split: str | None) -> str:
        fraction = hash_fraction(id_.split("@")[0])
        if split is None:
            if fraction < test_fraction:
                return "test"
            return "val" if fraction < test_fraction + val_fraction else "train"
        return "val" if split == "train" and cut_val and fraction < val_fraction else split

    return {id_: place(id_, split) for id_, split in annotated.items()}


def _annotated_split(id_: str, rows: Iterable[AnnotationRecord]) -> str | None:
    first: dict[str | None, str] = {}
    for row in rows:
        first.setdefault(row.split, row.origin)
    if len(first) > 1:
        places = " and ".join(f"{split or 'none'} ({origin})" for split, origin in first.items())
        raise AnnotationError(f"video {id_!r} is in two splits: {places}")
    return next(iter(first))


def _video_row(
    id_: str, record: AnnotationRecord, split: str, files: _VideoFiles
) -> dict[str, Any]:
    path = files.find(record)
    stat = path.stat() if path else None
    return {
        "video_id": id_,
        "split": split,
        "path": str(path) if path else None,
        "start_seconds": record.start_seconds,
        "end_seconds": record.end_seconds,
        "size_bytes": stat.st_size if stat else None,
        "mtime_ns": stat.st_mtime_ns if stat else None,
    }


class _VideoFiles:
    """Index of the video files below the roots by path and name, with and without extension."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._files: dict[str, list[Path]] = defaultdict(list)
        self.count = 0
        for root in roots:
            if not root.is_dir():
                raise AnnotationError(f"video folder {root} does not exist")
            for folder, subfolders, names in os.walk(root, followlinks=True):
                subfolders.sort()
                for name in sorted(names):
                    if os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS:
                        self._add(root, Path(folder) / name)

    def _add(self, root: Path, path: Path) -> None:
        relative = path.relative_to(root)
        keys = (relative, relative.with_suffix(""), path.name, path.stem)
        for key in dict.fromkeys(str(key) for key in keys):
            self._files[key].append(path)
        self.count += 1

    def find(self, record: AnnotationRecord) -> Path | None:
        matches = self._files.get(str(Path(record.video)), [])
        if len(matches) > 1:
            raise AnnotationError(
                f"{record.origin}: video {record.video!r} matches {len(matches)} files: "
                f"{', '.join(map(str, matches[:_SHOWN]))}; annotate the path relative to its root"
            )
        return matches[0] if matches else None
