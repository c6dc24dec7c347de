"""The manifest's tables: videos and captions with their splits and files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gare_cache.annotations.record import SPLITS
from gare_cache.errors import AnnotationError
from gare_cache.files import canonical_digest, read_parquet, write_parquet

VIDEO_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("split", pa.string()),
        ("path", pa.string()),  # null if the file is missing
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("annotated", pa.string()),  # "captions.csv:2: a.mp4", for messages
        ("size_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
    ]
)
# Manifests of earlier versions, also those kept in caches, do not say where a video is named.
_WITHOUT_PLACES = VIDEO_SCHEMA.remove(VIDEO_SCHEMA.get_field_index("annotated"))
CAPTION_SCHEMA = pa.schema(
    [
        ("caption_id", pa.string()),
        ("video_id", pa.string()),
        ("split", pa.string()),
        ("caption", pa.string()),
    ]
)

MANIFEST_FILES = ("videos.parquet", "captions.parquet")


@dataclass(frozen=True)
class Manifest:
    """Items to encode: a table of videos and a table of captions (see the schemas)."""

    videos: pa.Table
    captions: pa.Table

    def encodable(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the rows of the videos with a file, and those of their captions."""
        present = self.with_files()
        return present.videos.to_pylist(), present.captions.to_pylist()

    def videos_with_files(self) -> pa.Table:
        """Return the videos with a file."""
        return self.videos.filter(pc.is_valid(self.videos["path"]))

    def with_files(self) -> Manifest:
        """Return the videos with a file and their captions."""
        return self.of_videos(pc.is_valid(self.videos["path"]))

    def of_videos(self, kept: pa.ChunkedArray | pa.Array) -> Manifest:
        """Return some videos and their captions.

        Args:
            kept: (V,) booleans, true for the videos to keep.
        """
        videos = self.videos.filter(kept)
        owned = pc.is_in(self.captions["video_id"], videos["video_id"])
        return Manifest(videos, self.captions.filter(owned))

    def with_files_of(self, folder: Path) -> Manifest:
        """Return the manifest with the relative paths that do not exist here seen from a folder."""
        paths = [
            str(folder / path) if path and not Path(path).exists() else path
            for path in self.videos["path"].to_pylist()
        ]
        place = VIDEO_SCHEMA.get_field_index("path")
        videos = self.videos.set_column(
            place, VIDEO_SCHEMA.field(place), pa.array(paths, pa.string())
        )
        return Manifest(videos, self.captions)

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
        for name, table in zip(MANIFEST_FILES, (self.videos, self.captions), strict=True):
            write_parquet(folder / name, table)

    def summary(self) -> dict[str, Any]:
        """Return counts per split and the videos without a file.

        Returns:
            ``splits``: for each split its ``videos``, ``captions``, ``missing_videos``,
            ``repeated_captions`` (the same sentence again for the same video),
            ``shared_sentences`` (used for several videos) and
            ``captions_with_shared_sentence``; ``missing``: the ids without a file, each with
            the place of its annotation.
        """
        videos = self.videos.select(["video_id", "split", "path", "annotated"]).to_pylist()
        missing = {row["video_id"]: row["annotated"] for row in videos if row["path"] is None}
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
        UnreadableFile: a table is damaged.
    """
    tables = []
    for name, schema in zip(MANIFEST_FILES, (VIDEO_SCHEMA, CAPTION_SCHEMA), strict=True):
        path = folder / name
        if not path.is_file():
            raise AnnotationError(f"{path} does not exist; run `gare-cache prepare` first")
        table = read_parquet(path)
        if schema == VIDEO_SCHEMA and table.schema == _WITHOUT_PLACES:
            place = table.schema.get_field_index("size_bytes")
            table = table.add_column(place, "annotated", table["video_id"])
        if table.schema != schema:
            raise AnnotationError(
                f"{path} does not have the columns of a manifest; run `gare-cache prepare` again"
            )
        tables.append(table)
    return Manifest(*tables)
