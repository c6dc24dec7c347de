"""The videos of a project that can be searched, their files and their vectors."""

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
_COLUMNS = ["video_id", "split", "path", "start_seconds", "end_seconds"]
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
        ids: list[str] = (column if places is None else column.take(list(places))).to_pylist()
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
    rows = [latest.get(id_, -1) for id_ in listed["video_id"].to_pylist()]
    found = np.array([table.status(row) == "ok" for row in rows], bool)
    if not found.any():
        raise CacheError(
            f"none of the {counted(len(listed), 'listed video')} has features in {cache.folder}; "
            "`gare-cache info` tells why"
        )
    videos = GalleryVideos(listed.filter(pa.array(found)), np.array(rows, np.int64)[found], project)
    return Gallery(cache, videos, len(listed) - len(videos))


def scored_frames(
    gallery: Gallery, head: RetrievalHead, places: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the frames of V videos as the head scores them, on its device.

    A head that counts padded frames (``reference_padding``) gets as many slots as in evaluation,
    whatever the other videos are.

    Returns:
        (V, F, D) float32 frames, zero on padding, and their mask (V, F).
    """
    most = head.settings["max_frames"]
    frames, mask = gallery.frames(places, most)
    if head.settings["reference_padding"]:
        empty = min(most, gallery.cache.layout.max_frames) - frames.shape[1]
        frames, mask = F.pad(frames, (0, 0, 0, empty)), F.pad(mask, (0, empty))
    device = head.logit_scale.device
    return frames.to(device), mask.to(device)


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
    wanted: list[int] = gallery.videos.rows.tolist()
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
    rows: list[int] = gallery.videos.rows.tolist()
    new = [place for place, row in enumerate(rows) if row not in known]
    if kept is not None:
        old = [place for place, row in enumerate(rows) if row in known]
        vectors[old] = kept[1][[known[rows[place]] for place in old]]
    with progress("vectors of the videos", len(new)) as advance:
        for part in blocks(len(new), _VIDEOS_AT_A_TIME):
            frames, mask = gallery.frames(new[part], head.settings["max_frames"])
            vectors[new[part]] = head_vectors(head, frames, mask).half().numpy()
            advance(len(new[part]))
    return vectors


def _write(place: Path, rows: Sequence[int], vectors: npt.NDArray[np.float16]) -> None:
    # The rows are written last: without them the vectors count for nothing.
    (place / _ROWS).unlink(missing_ok=True)
    with replacing(place / _VECTORS) as partial, partial.open("wb") as file:
        np.save(file, vectors)
    write_record(place / _ROWS, {"rows": list(rows)})


def _resolved(path: Path, folders: dict[Path, Path]) -> Path:
    """Return what ``path.resolve()`` does; each folder is resolved once."""
    if path.is_symlink() or path.name in ("", ".."):
        return path.resolve()
    if path.parent not in folders:
        folders[path.parent] = path.parent.resolve()
    return folders[path.parent] / path.name
