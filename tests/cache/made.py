"""A small cache with known features, made without an encoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gare_cache.cache.identity import Owner
from gare_cache.cache.journal import RowOutcome
from gare_cache.cache.schema import MANIFEST, Layout
from gare_cache.cache.writer import CacheWriter, open_writer
from gare_cache.files import canonical_digest
from gare_cache.manifest.tables import CAPTION_SCHEMA, VIDEO_SCHEMA, Manifest

OWNER = Owner("a" * 32, "/projects/a")
LAYOUT = Layout(max_frames=3, dim=4)
IDENTITY: dict[str, Any] = {"encoder": {"weights": "abc"}, "sampling": {"max_frames": 3}}
NAME = f"d-{canonical_digest(IDENTITY)[:12]}"


def writer(folder: Path, identity: dict[str, Any] = IDENTITY, **options: Any) -> Any:
    return open_writer(
        folder,
        dataset="d",
        identity=identity,
        head_start={"logit_scale": torch.tensor(4.6)},
        **{"owner": OWNER, "layout": LAYOUT, **options},
    )


def source(number: int, size: int = 1) -> dict[str, Any]:
    return {
        "video_id": f"v{number}",
        "path": f"/videos/v{number}.mp4",
        "start_seconds": None,
        "end_seconds": None,
        "size_bytes": size,
        "mtime_ns": 5,
    }


def caption(number: int) -> dict[str, Any]:
    return {"caption_id": f"v{number}#0", "caption": f"sentence {number}"}


def features(rows: Any) -> dict[str, Any]:
    rows = np.asarray(rows)
    frames = np.full((len(rows), 3, 4), np.nan, "<f2")
    frames[:, :2] = rows[:, None, None] + np.array([0.25, 0.5])[:, None]
    times = np.full((len(rows), 3), np.nan, "<f4")
    times[:, :2] = [0, 1]
    return {
        "video/frames": frames,
        "video/times": times,
        "video/num_frames": np.full(len(rows), 2, "<i4"),
    }


def fill(cache: CacheWriter, numbers: Any, *, most_units: int | None = None) -> list[int]:
    rows = cache.allocate("video", [source(number) for number in numbers])
    for unit in cache.pending("video", rows)[:most_units]:
        outcomes = [RowOutcome(row, decoder="pyav") for row in unit.rows]
        thumbnails = dict.fromkeys(unit.rows, b"jpeg")
        cache.commit(unit, features(unit.rows), outcomes, thumbnails=thumbnails, seconds={"a": 1.0})
    return rows


def fill_captions(cache: CacheWriter, numbers: Any) -> None:
    rows = cache.allocate("text", [caption(number) for number in numbers])
    for unit in cache.pending("text", rows):
        values = {"text/features": np.arange(4) + np.asarray(unit.rows)[:, None] + 0.5}
        outcomes = [RowOutcome(row) for row in unit.rows]
        cache.commit(unit, values, outcomes, thumbnails={}, seconds={})


def fail(cache: CacheWriter, number: int) -> None:
    """Record one video as failed."""
    rows = cache.allocate("video", [source(number)])
    (unit,) = cache.pending("video", rows)
    values = {spec.name: spec.empty(1) for spec in LAYOUT.arrays("video")}
    outcomes = [RowOutcome(unit.rows[0], reason="truncated")]
    cache.commit(unit, values, outcomes, thumbnails={}, seconds={})


def make(folder: Path, *, videos: int = 10) -> Path:
    """A complete cache with as many captions as videos."""
    with writer(folder) as cache:
        fill(cache, range(videos))
        fill_captions(cache, range(videos))
    manifest(videos).write(folder / MANIFEST)
    return folder


def manifest(videos: int) -> Manifest:
    """The manifest of the cache that ``make`` makes."""
    place = {"split": "train", "annotated": "captions.csv"}
    return Manifest(
        pa.Table.from_pylist([{**source(i), **place} for i in range(videos)], VIDEO_SCHEMA),
        pa.Table.from_pylist(
            [{**caption(i), "video_id": f"v{i}", "split": "train"} for i in range(videos)],
            CAPTION_SCHEMA,
        ),
    )


def chunk_files(folder: Path) -> list[Path]:
    root = folder / "features.zarr"
    return sorted(path for path in root.rglob("c/**/*") if path.is_file())
