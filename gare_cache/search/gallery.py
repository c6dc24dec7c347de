"""The videos of a project that can be searched: their files, frames and times."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from gare_cache.cache.reader import FeatureCache
from gare_cache.data.frames import even_positions, take_frames
from gare_cache.errors import CacheError, counted
from gare_cache.manifest.tables import Manifest

# Videos whose entries are made at a time.
_VIDEOS_AT_A_TIME = 4096
_COLUMNS = ["video_id", "split", "path", "start_seconds", "end_seconds"]


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


class GalleryVideos(Sequence[GalleryVideo]):
    """The videos of a gallery as columns; a video is made when it is asked for."""

    def __init__(self, table: pa.Table, rows: npt.NDArray[np.int64], project: Path) -> None:
        """Take videos.

        Args:
            table: their rows of the manifest.
            rows: (N,) of the cache.
            project: folder from which relative paths are seen, if not from the working directory.
        """
        self._table = table.select(_COLUMNS)
        self.rows = rows
        self._project = project

    @classmethod
    def of(cls, videos: Sequence[GalleryVideo]) -> GalleryVideos:
        """Return the columns of videos."""
        values = (
            [video.video_id for video in videos],
            [video.split for video in videos],
            [video.path and str(video.path) for video in videos],
            [video.start for video in videos],
            [video.end for video in videos],
        )
        table = pa.table(dict(zip(_COLUMNS, values, strict=True)))
        return cls(table, np.array([video.row for video in videos], np.int64), Path())

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> GalleryVideo: ...
    @overload
    def __getitem__(self, place: slice) -> list[GalleryVideo]: ...
    def __getitem__(self, place: int | slice) -> GalleryVideo | list[GalleryVideo]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        row = range(len(self))[place]
        return self._video(self.rows[row], [self._table[name][row].as_py() for name in _COLUMNS])

    def __iter__(self) -> Iterator[GalleryVideo]:
        first = 0
        for batch in self._table.to_batches(max_chunksize=_VIDEOS_AT_A_TIME):
            rows = self.rows[first : first + len(batch)]
            first += len(batch)
            columns = (batch[name].to_pylist() for name in _COLUMNS)
            yield from map(self._video, rows, zip(*columns, strict=True))

    def ids(self, places: Sequence[int] | None = None) -> list[str]:
        """Return the ids of the videos at some places; None is all."""
        column = self._table["video_id"]
        ids: list[str] = (
            column if places is None else column.take(pa.array(places, pa.int64()))
        ).to_pylist()
        return ids

    def splits(self) -> npt.NDArray[np.str_]:
        """Return the split of each video."""
        return np.array(self._table["split"].to_pylist())

    def paths(self) -> list[Path | None]:
        """Return the file of each video."""
        return [self._path(path) for path in self._table["path"].to_pylist()]

    def _video(self, row: np.int64, values: Sequence[Any]) -> GalleryVideo:
        """Return the video of a row of the cache, with its values of ``_COLUMNS``."""
        video_id, split, path, start, end = values
        return GalleryVideo(video_id, int(row), split, self._path(path), start or 0.0, end)

    def _path(self, named: str | None) -> Path | None:
        if named is None:
            return None
        path = Path(named)
        # An absolute path is the same from everywhere: it need not be looked for.
        if path.is_absolute() or path.exists():
            return path
        there = self._project / path
        return there if there.exists() else path


@dataclass(frozen=True, eq=False)
class Gallery:
    """The videos of a manifest that have features; videos that left the manifest are not there.

    Attributes:
        cache: the features.
        videos: what can be found.
        failed: number of listed videos without features.
    """

    cache: FeatureCache
    videos: GalleryVideos
    failed: int

    @functools.cached_property
    def place_of(self) -> dict[str, int]:
        """Place of each video by its id."""
        return {id_: place for place, id_ in enumerate(self.videos.ids())}

    @functools.cached_property
    def splits(self) -> npt.NDArray[np.str_]:
        """Split of each video."""
        return self.videos.splits()

    @functools.cached_property
    def files(self) -> Sequence[Path | None]:
        """File of each video with links resolved; None where there is none."""
        folders: dict[Path, Path] = {}
        return [path and _resolved(path, folders) for path in self.videos.paths()]

    @functools.cached_property
    def _num_frames(self) -> npt.NDArray[np.int32]:
        return self.cache.num_frames(self.videos.ids())

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
        return self.videos.ids(places)


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
    latest, listed = table.latest(), manifest.videos
    rows = np.array([latest.get(id_, -1) for id_ in listed["video_id"].to_pylist()], np.int64)
    found = table.outcomes.ok(rows)
    if not found.any():
        raise CacheError(
            f"none of the {counted(len(listed), 'listed video')} has features in {cache.folder}; "
            "`gare-cache info` tells why"
        )
    videos = GalleryVideos(listed.filter(pa.array(found)), rows[found], project)
    return Gallery(cache, videos, len(listed) - len(videos))


def _resolved(path: Path, folders: dict[Path, Path]) -> Path:
    """Return what ``path.resolve()`` does; each folder is resolved once."""
    if path.is_symlink() or path.name in ("", ".."):
        return path.resolve()
    if path.parent not in folders:
        folders[path.parent] = path.parent.resolve()
    return folders[path.parent] / path.name
