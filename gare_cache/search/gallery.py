"""The videos of a project that can be searched: their files, frames and times."""

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

from gare_cache.cache.reader import FeatureCache
from gare_cache.data.frames import even_positions, take_frames
from gare_cache.errors import CacheError, counted
from gare_cache.manifest.tables import Manifest


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

    @functools.cached_property
    def splits(self) -> npt.NDArray[np.str_]:
        """Split of each video."""
        return np.array([video.split for video in self.videos])

    @functools.cached_property
    def files(self) -> Sequence[Path | None]:
        """File of each video with links resolved; None where there is none."""
        folders: dict[Path, Path] = {}
        return [video.path and _resolved(video.path, folders) for video in self.videos]

    @functools.cached_property
    def _num_frames(self) -> npt.NDArray[np.int32]:
        return self.cache.num_frames([video.video_id for video in self.videos])

    def frames(self, places: Sequence[int], most: int) -> tuple[Tensor, Tensor]:
        """Return frame features as a head takes them.

        Args:
            places: of V videos.
            most: the head's largest number of frames.

        Returns:
            (V, F, D) float32 frames, zero on padding, F of the longest video; their mask (V, F).
        """
        counts, longest = self._counts(places)
        stored = torch.from_numpy(self.cache.frames(self._ids(places), longest))
        mask = torch.arange(longest) < counts[:, None]  # (V, F)
        frames = stored.float().masked_fill(~mask[..., None], 0.0)
        if most < longest:
            frames, mask = take_frames(frames, mask, even_positions(counts, most))
        return frames, mask

    def mask(self, places: Sequence[int], most: int) -> Tensor:
        """Return the mask (V, F) of ``frames``."""
        counts, longest = self._counts(places)
        return torch.arange(min(most, longest)) < counts[:, None]

    def times(self, places: Sequence[int], most: int) -> Tensor:
        """Return the seconds (V, F) in their files of the frames of ``frames``, NaN on padding."""
        counts, longest = self._counts(places)
        times = torch.from_numpy(self.cache.times(self._ids(places), longest))
        if most < longest:
            mask = torch.arange(longest) < counts[:, None]
            chosen = even_positions(counts, most)
            taken, mask = take_frames(times[..., None], mask, chosen)
            times = taken[..., 0].masked_fill(~mask, torch.nan)
        return times

    def _counts(self, places: Sequence[int]) -> tuple[Tensor, int]:
        counts = self._num_frames[list(places)]
        return torch.from_numpy(counts), int(counts.max(initial=1))

    def _ids(self, places: Sequence[int]) -> list[str]:
        return [self.videos[place].video_id for place in places]


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


def _resolved(path: Path, folders: dict[Path, Path]) -> Path:
    """Return what ``path.resolve()`` does; each folder is resolved once."""
    if path.is_symlink() or path.name in ("", ".."):
        return path.resolve()
    if path.parent not in folders:
        folders[path.parent] = path.parent.resolve()
    return folders[path.parent] / path.name


def _gallery_video(row: dict[str, Any], cache_row: int, project: Path) -> GalleryVideo:
    path = None if row["path"] is None else Path(row["path"])
    # An absolute path is the same from everywhere: it need not be looked for.
    if path is not None and not path.is_absolute() and not path.exists():
        path = project / path if (project / path).exists() else path
    return GalleryVideo(
        row["video_id"],
        cache_row,
        row["split"],
        path,
        row["start_seconds"] or 0.0,
        row["end_seconds"],
    )
