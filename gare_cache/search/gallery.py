"""The videos of a project that can be searched, their files and their vectors."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from gare_cache.cache.reader import FeatureCache
from gare_cache.data.frames import even_positions, take_frames
from gare_cache.errors import CacheError, counted
from gare_cache.files import canonical_digest, read_json, replacing, write_record
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.heads.scoring import blocks
from gare_cache.manifest.tables import Manifest
from gare_cache.project.progress import progress

# Videos whose frames are held as float32 at a time.
_VIDEOS_AT_A_TIME = 4096
_VECTORS, _ROWS = "vectors.npy", "rows.json"


@dataclass(frozen=True)
class GalleryVideo:
    """A video that can be found.

    Attributes:
        video_id: of the manifest.
        row: of the cache.
        split: ``train``, ``val`` or ``test``.
        path: its file; None if the features were imported.
        start: of the clip in the file, in seconds; 0 for a whole video.
        end: of the clip; None for a whole video.
    """

    video_id: str
    row: int
    split: str
    path: Path | None
    start: float
    end: float | None


@dataclass(frozen=True, eq=False)
class Gallery:
    """The videos of a manifest that have features; videos that left the manifest are not there.

    Attributes:
        cache: the features.
        videos: what can be found.
        failed: number of listed videos without features.
    """

    cache: FeatureCache
    videos: Sequence[GalleryVideo]
    failed: int

    @functools.cached_property
    def place_of(self) -> dict[str, int]:
        """Place of each video by its id."""
        return {video.video_id: place for place, video in enumerate(self.videos)}

    def frames(self, places: Sequence[int], most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return frame features as a head takes them, and their seconds in the file.

        Args:
            places: of V videos.
            most: the head's largest number of frames.

        Returns:
            (V, F, D) float32 frames, zero on padding; their mask (V, F); (V, F) float32 seconds,
            NaN on padding.
        """
        stored = self.cache.videos([self.videos[place].video_id for place in places])
        counts = torch.from_numpy(stored.num_frames)
        mask = torch.arange(stored.frames.shape[1]) < counts[:, None]  # (V, F)
        frames = torch.from_numpy(stored.frames).float().masked_fill(~mask[..., None], 0.0)
        times = torch.from_numpy(stored.times)
        if most < frames.shape[1]:
            chosen = even_positions(counts, most)
            seconds, _ = take_frames(times.nan_to_num()[..., None], mask, chosen)
            frames, mask = take_frames(frames, mask, chosen)
            times = seconds[..., 0].masked_fill(~mask, torch.nan)
        return frames, mask, times


def open_gallery(cache: FeatureCache, manifest: Manifest, project: Path) -> Gallery:
    """Return the videos of a manifest that have features.

    Args:
        cache: the features.
        manifest: the listed videos.
        project: folder from which relative paths are seen, if not from the working directory.

    Raises:
        CacheError: no listed video has features.
    """
    table = cache.tables["video"]
    latest = table.latest()
    listed = manifest.videos.to_pylist()
    videos = [
        _gallery_video(row, latest[row["video_id"]], project)
        for row in listed
        if table.status(latest.get(row["video_id"], -1)) == "ok"
    ]
    if not videos:
        raise CacheError(
            f"none of the {counted(len(listed), 'listed video')} has features in {cache.folder}; "
            "`gare-cache info` tells why"
        )
    return Gallery(cache, videos, len(listed) - len(videos))


def head_vectors(head: RetrievalHead, frames: Tensor, mask: Tensor) -> Tensor:
    """Return the videos' vectors (V, D) at length 1, see ``RetrievalHead.video_vectors``."""
    device = head.logit_scale.device
    return F.normalize(head.video_vectors(frames.to(device), mask.to(device)), dim=-1).cpu()


def gallery_vectors(
    gallery: Gallery,
    head: RetrievalHead,
    folder: Path,
    *,
    head_id: str,
) -> npt.NDArray[np.float16]:
    """Return the vectors of a gallery (N, D), memory-mapped, and compute those that are missing.

    They are kept in a file for each pair of cache and head. A row of a cache never changes, so a
    vector holds as long as its row is in the gallery; others are dropped.

    Args:
        gallery: the videos.
        head: what makes a vector of a video's frames.
        folder: where the files of all pairs lie.
        head_id: identity of the head's weights and settings.

    Returns:
        float16 vectors of length 1, in the order of the gallery's videos.
    """
    wanted = [video.row for video in gallery.videos]
    place = vectors_folder(gallery, folder, head_id)
    kept = _kept(place, gallery.cache.layout.dim)
    if kept is None or kept[0] != wanted:
        _write(place, wanted, _computed(gallery, head, kept))
    vectors: npt.NDArray[np.float16] = np.load(place / _VECTORS, mmap_mode="r")
    return vectors


def vectors_folder(gallery: Gallery, folder: Path, head_id: str) -> Path:
    """Return the folder of the vectors of a cache and a head."""
    cache = gallery.cache
    return folder / canonical_digest([cache.extraction_id, cache.folder.name, head_id])[:16]


def _kept(place: Path, dim: int) -> tuple[list[int], npt.NDArray[np.float16]] | None:
    """Return the rows and vectors of an earlier gallery; None if there are none that fit."""
    if not (place / _ROWS).is_file() or not (place / _VECTORS).is_file():
        return None
    rows: list[int] = read_json(place / _ROWS)["rows"]
    try:
        vectors: npt.NDArray[np.float16] = np.load(place / _VECTORS, mmap_mode="r")
    except ValueError:  # cut short: they are computed again
        return None
    return (rows, vectors) if vectors.shape == (len(rows), dim) else None


def _computed(
    gallery: Gallery,
    head: RetrievalHead,
    kept: tuple[list[int], npt.NDArray[np.float16]] | None,
) -> npt.NDArray[np.float16]:
    vectors = np.empty((len(gallery.videos), gallery.cache.layout.dim), np.float16)
    known = {} if kept is None else {row: place for place, row in enumerate(kept[0])}
    new = [place for place, video in enumerate(gallery.videos) if video.row not in known]
    if kept is not None:
        old = [place for place, video in enumerate(gallery.videos) if video.row in known]
        vectors[old] = kept[1][[known[gallery.videos[place].row] for place in old]]
    with progress("vectors of the videos", len(new)) as advance:
        for part in blocks(len(new), _VIDEOS_AT_A_TIME):
            frames, mask, _ = gallery.frames(new[part], head.settings["max_frames"])
            vectors[new[part]] = head_vectors(head, frames, mask).half().numpy()
            advance(len(new[part]))
    return vectors


def _write(place: Path, rows: Sequence[int], vectors: npt.NDArray[np.float16]) -> None:
    # The rows are written last: without them the vectors count for nothing.
    (place / _ROWS).unlink(missing_ok=True)
    with replacing(place / _VECTORS) as partial, partial.open("wb") as file:
        np.save(file, vectors)
    write_record(place / _ROWS, {"rows": list(rows)})


def _gallery_video(row: dict[str, Any], cache_row: int, project: Path) -> GalleryVideo:
    path = None if row["path"] is None else Path(row["path"])
    if path is not None and not path.exists() and (project / path).exists():
        path = project / path
    return GalleryVideo(
        row["video_id"],
        cache_row,
        row["split"],
        path,
        row["start_seconds"] or 0.0,
        row["end_seconds"],
    )
