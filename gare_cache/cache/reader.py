"""Open a finished cache: features by id, identities, and what became of every item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from safetensors.torch import load_file
from torch import Tensor

from gare_cache.cache import journal
from gare_cache.cache.rows import RowTable, read_rows
from gare_cache.cache.schema import FEATURES, HEAD_START, JOURNAL, KINDS, Kind, Layout, check_format
from gare_cache.cache.writer import thumbnail_path
from gare_cache.errors import CacheError
from gare_cache.files import canonical_digest


@dataclass(frozen=True)
class VideoFeatures:
    """Frame features of some videos.

    Attributes:
        frames: (V, F, D) float16, NaN on padding.
        times: (V, F) float32 seconds, NaN on padding.
        num_frames: (V,) int32, 0 for a failed video.
    """

    frames: npt.NDArray[np.float16]
    times: npt.NDArray[np.float32]
    num_frames: npt.NDArray[np.int32]


@dataclass(frozen=True)
class FeatureCache:
    """A cache folder, opened for reading by ``open_cache``."""

    folder: Path
    attributes: Mapping[str, Any]
    layout: Layout
    tables: Mapping[Kind, RowTable]
    records: Sequence[journal.UnitRecord]
    _group: zarr.Group

    @property
    def encoder_id(self) -> str:
        """Identity of the encoder."""
        return str(self.attributes["encoder_id"])

    @property
    def extraction_id(self) -> str:
        """Identity of the extraction; names the folder."""
        return str(self.attributes["extraction_id"])

    @property
    def content_digest(self) -> str:
        """SHA-256 over ids, their states and the chunks' checksums."""
        return canonical_digest({kind: self.tables[kind].digest() for kind in KINDS})

    def videos(self, ids: Sequence[str]) -> VideoFeatures:
        """Return the frame features of videos, in the order asked.

        Raises:
            CacheError: a video is not in the cache, or not done.
        """
        rows = self._rows("video", ids)
        return VideoFeatures(*(self._read(spec.name, rows) for spec in self.layout.arrays("video")))

    def captions(self, ids: Sequence[str]) -> npt.NDArray[np.float16]:
        """Return the (T, D) text features of captions, in the order asked.

        Raises:
            CacheError: a caption is not in the cache, or not done.
        """
        return self._read("text/features", self._rows("text", ids))

    def counts(self, kind: Kind) -> dict[str, int]:
        """Count the current rows of all ids: ``ok``, ``failed``, ``pending``."""
        table = self.tables[kind]
        counts = Counter(table.status(row) for row in table.latest().values())
        return {status: counts[status] for status in ("ok", "failed", "pending")}

    def failures(self) -> dict[str, str]:
        """Return the reason for every failed video."""
        table = self.tables["video"]
        return {
            id_: table.outcomes[row].reason or ""
            for id_, row in table.latest().items()
            if table.status(row) == "failed"
        }

    def head_start(self) -> dict[str, Tensor]:
        """Return the tensors that heads start from."""
        return load_file(self.folder / HEAD_START)

    def thumbnails(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return the JPEG of each video; None where it has none."""
        latest = self.tables["video"].latest()
        paths = [thumbnail_path(self.folder, latest[id_]) for id_ in ids]
        return [path.read_bytes() if path.exists() else None for path in paths]

    def _rows(self, kind: Kind, ids: Sequence[str]) -> list[int]:
        table = self.tables[kind]
        latest = table.latest()
        absent = [id_ for id_ in ids if table.status(latest.get(id_, -1)) == "pending"]
        if absent:
            raise CacheError(
                f"{len(absent)} of {len(ids)} {kind} rows are not in {self.folder} (first: "
                f"{absent[0]!r}); run `gare-cache extract`"
            )
        return [latest[id_] for id_ in ids]

    def _read(self, name: str, rows: Sequence[int]) -> npt.NDArray[Any]:
        return np.asarray(self._group[name][:])[np.asarray(rows, dtype=np.int64)]  # type: ignore[index]


def open_cache(folder: Path) -> FeatureCache:
    """Open a cache for reading.

    Raises:
        CacheError: there is no cache, or one of another format.
    """
    if not (folder / FEATURES).is_dir():
        raise CacheError(f"no feature cache at {folder}; run `gare-cache extract`")
    group = zarr.open_group(folder / FEATURES, mode="r", zarr_format=3)
    attributes = dict(group.attrs)
    check_format(attributes, folder)
    records = journal.read(folder / JOURNAL)
    return FeatureCache(
        folder=folder,
        attributes=attributes,
        layout=Layout(**attributes["layout"]),  # type: ignore[arg-type]
        tables=read_rows(folder, records),
        records=records,
        _group=group,
    )
