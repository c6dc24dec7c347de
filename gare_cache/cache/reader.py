"""Open a finished cache: features by id, identities, and the result of every item."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache import journal
from gare_cache.cache.chunks import DROP_COMMAND, chunk_path, is_as_written, map_chunk
from gare_cache.cache.group import read_attributes, stored_unit_rows
from gare_cache.cache.rows import Ids, RowTable, Sources, listed, read_rows, read_sources
from gare_cache.cache.schema import (
    HEAD_START,
    KINDS,
    PATCHES,
    PIXELS,
    VIEWS,
    WORDS,
    ArraySpec,
    Kind,
    Layout,
    thumbnail_path,
)
from gare_cache.cache.sizes import check_chunk_sizes
from gare_cache.cache.words import Tokens, read_unit_words, words_path
from gare_cache.errors import CacheError
from gare_cache.files import canonical_digest

_Places = npt.NDArray[np.int64] | slice
_MOST_MAPS = 4096  # of chunks that stay mapped; a system allows 65,530 of a process

if TYPE_CHECKING:
    from torch import Tensor


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
    _checked: set[tuple[str, int]] = field(default_factory=set)  # arrays and units
    _maps: dict[tuple[str, int], npt.NDArray[Any]] = field(default_factory=dict)  # by the same

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
        """SHA-256 of the ids, their states and the checksums of the chunks."""
        return self.digest_of({})

    def digest_of(self, num_rows: Mapping[Kind, int]) -> str:
        """Return the digest of the first rows of each kind, as many as given; see ``RowTable``."""
        digests = {kind: self.tables[kind].digest(num_rows.get(kind)) for kind in KINDS}
        return canonical_digest(digests)

    def videos(self, ids: Ids) -> VideoFeatures:
        """Return the frame features of videos, in the order asked.

        A column of ids, as those of a manifest, is looked up without making strings of Python.

        Raises:
            CacheError: a video is not in the cache, or not done.
        """
        names = ("video/frames", "video/times", "video/num_frames")
        rows = self._rows("video", ids)
        return VideoFeatures(*(self._read("video", name, rows) for name in names))

    def frames(self, ids: Sequence[str], most: int) -> npt.NDArray[np.float16]:
        """Return the first frames (V, ``most``, D) of videos; otherwise as ``videos``."""
        return self._read("video", "video/frames", self._rows("video", ids), most)

    def times(self, ids: Sequence[str], most: int) -> npt.NDArray[np.float32]:
        """Return the seconds (V, ``most``) of the first frames; otherwise as ``videos``."""
        return self._read("video", "video/times", self._rows("video", ids), most)

    def num_frames(self, ids: Ids) -> npt.NDArray[np.int32]:
        """Return the number of real frames of videos, in the order asked; 0 for a failed one.

        Raises:
            CacheError: as ``videos``.
        """
        return self._read("video", "video/num_frames", self._rows("video", ids))

    def views(self, ids: Sequence[str]) -> list[npt.NDArray[np.float16]]:
        """Return the augmented features of videos, memory-mapped: (R, F, D) each, NaN on padding.

        Raises:
            CacheError: the cache holds none; otherwise as ``videos``.
        """
        self._require(self.layout.num_views > 0, "augmented views", "extract.views")
        return self._mapped(VIEWS, ids)

    def patches(self, ids: Sequence[str]) -> list[npt.NDArray[np.float16]]:
        """Return the patch tokens of videos, memory-mapped: (F, P, D) each, NaN on padding.

        Raises:
            CacheError: the cache holds none; otherwise as ``videos``.
        """
        self._require(self.layout.num_patches > 0, "patch tokens", "extract.patch_tokens")
        return self._mapped(PATCHES, ids)

    def pixels(self, ids: Sequence[str]) -> list[npt.NDArray[np.uint8]]:
        """Return the frames of videos, memory-mapped: (F, H, W, 3) uint8 each, 0 on padding.

        Raises:
            CacheError: the cache holds features; otherwise as ``videos``.
        """
        return self._mapped(PIXELS, ids)

    def words(self, ids: Sequence[str]) -> list[Tokens]:
        """Return the word tokens of captions, memory-mapped: (L, D) each, the last one at EOT.

        Raises:
            CacheError: the cache holds none; otherwise as ``captions``.
        """
        self._require(self.layout.words, "word tokens", "extract.word_tokens")
        table = self.tables["text"]
        rows = self.rows("text", ids)
        units = {unit: self._unit_words(unit) for unit in {row // table.unit_rows for row in rows}}
        return [units[row // table.unit_rows][row] for row in rows]

    def _unit_words(self, unit: int) -> Mapping[int, Tokens]:
        table = self.tables["text"]
        words = read_unit_words(self.folder, self.layout, table, unit)
        if (WORDS, unit) not in self._checked:
            if words.checksum() != table.checksums[unit].get(WORDS):
                raise _damaged(words_path(self.folder, unit))
            self._checked.add((WORDS, unit))
        return words.of_row

    def pieces(self, name: str, ids: Ids) -> Iterator[tuple[_Places, npt.NDArray[Any]]]:
        """Yield an array's rows of some items, chunk by chunk, with their places among the ids.

        Args:
            name: ``video/frames``, ``text/features`` or another array of the layout.
            ids: the items.

        Raises:
            CacheError: an item is not in the cache, or not done.
        """
        kind = _kind(name)
        for places, chunk, kept in self._chunks(kind, name, self._rows(kind, ids)):
            yield places, chunk[kept] if isinstance(kept, slice) else chunk.take(kept, 0)

    def captions(self, ids: Ids) -> npt.NDArray[np.float16]:
        """Return the (T, D) text features of captions, in the order asked.

        Raises:
            CacheError: a caption is not in the cache, or not done.
        """
        return self._read("text", "text/features", self._rows("text", ids))

    def counts(self, kind: Kind) -> dict[str, int]:
        """Count the current rows of all ids by status: ``ok``, ``failed``, ``pending``."""
        table = self.tables[kind]
        states = table.states()
        counts = Counter(states[row] for row in table.latest().values())
        return {status: counts[status] for status in ("ok", "failed", "pending")}

    def failures(self) -> dict[str, str]:
        """Return the reason for every failed video."""
        table = self.tables["video"]
        latest = table.latest()
        return {id_: table.outcomes[latest[id_]].reason or "" for id_ in table.failed_ids()}

    def head_start(self) -> dict[str, Tensor]:
        """Return the tensors that heads start from.

        Raises:
            CacheError: their file is not what was written.
        """
        # Imported late: torch takes seconds to import, and reading features does not need it.
        from safetensors.torch import load

        path = self.folder / HEAD_START
        content = path.read_bytes()
        expected = self.attributes.get("head_start_sha256")  # caches of early versions have none
        if expected not in (None, hashlib.sha256(content).hexdigest()):
            raise CacheError(
                f"{path} is damaged: it is not what was written; delete it and run `gare-cache "
                "extract`, which writes it again"
            )
        return load(content)

    def thumbnails(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return the JPEG thumbnail of each video; None if it has none."""
        latest = self.tables["video"].latest()
        paths = [thumbnail_path(self.folder, latest[id_]) for id_ in ids]
        return [path.read_bytes() if path.exists() else None for path in paths]

    def rows(self, kind: Kind, ids: Sequence[str]) -> list[int]:
        """Return the current row of each id, in the order asked.

        Raises:
            CacheError: an id is not in the cache, or not done.
        """
        rows: list[int] = self._rows(kind, ids).tolist()
        return rows

    def _rows(self, kind: Kind, ids: Ids) -> npt.NDArray[np.int64]:
        table = self.tables[kind]
        rows = table.sources.find(ids)
        done = table.outcomes.has(rows)
        if not done.all():
            absent = [id_ for id_, there in zip(listed(ids), done, strict=True) if not there]
            raise CacheError(
                f"{len(absent)} of {len(ids):,} {kind} rows are not in {self.folder} "
                f"(first: {absent[0]!r}); run `gare-cache extract` (or `import-features`) again"
            )
        return rows

    def _mapped(self, name: str, ids: Sequence[str]) -> list[npt.NDArray[Any]]:
        unit_rows = self.tables["video"].unit_rows
        rows = self.rows("video", ids)
        chunks = {unit: self._chunk("video", name, unit) for unit in {r // unit_rows for r in rows}}
        return [chunks[row // unit_rows][row % unit_rows] for row in rows]

    def _require(self, present: bool, what: str, setting: str) -> None:
        if not present:
            raise CacheError(
                f"{self.folder} holds no {what}; set {setting} and run `gare-cache extract`"
            )

    def _read(
        self, kind: Kind, name: str, rows: npt.NDArray[np.int64], most: int | None = None
    ) -> npt.NDArray[Any]:
        """Return rows of an array, ``most`` entries of each."""
        spec = self.spec(name)
        shape = spec.row_shape if most is None else (most, *spec.row_shape[1:])
        values = np.empty((len(rows), *shape), spec.dtype)
        for places, chunk, kept in self._chunks(kind, name, rows):
            if most is not None:
                values[places] = chunk[:, :most][kept]
            elif isinstance(places, slice) and not isinstance(kept, slice):
                chunk.take(kept, 0, out=values[places], mode="clip")  # not by way of a copy
            else:
                values[places] = chunk[kept]
        return values

    def _chunks(
        self, kind: Kind, name: str, rows: npt.NDArray[np.int64]
    ) -> Iterator[tuple[_Places, npt.NDArray[Any], _Places]]:
        """Yield the places of some rows, their chunk, whose checksum was compared, and rows."""
        unit_rows = self.tables[kind].unit_rows
        units = rows // unit_rows
        order = np.argsort(units, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(units[order])) + 1):
            if len(places):
                unit = int(units[places[0]])
                chunk = self._chunk(kind, name, unit)
                yield _run(places), chunk, _run(rows[places] - unit * unit_rows)

    def spec(self, name: str) -> ArraySpec:
        """Return the shape and type of an array.

        Raises:
            CacheError: the cache holds no such array.
        """
        for spec in self.layout.arrays(_kind(name)):
            if spec.name == name:
                return spec
        held = "frames, no features" if self.layout.height else "features, no frames"
        raise CacheError(f"{self.folder} holds {held}; name another cache")

    def _chunk(self, kind: Kind, name: str, unit: int) -> npt.NDArray[Any]:
        """Memory-map a chunk, whose checksum is compared with the journal's the first time."""
        mapped = self._maps.get((name, unit))
        if mapped is not None:
            return mapped
        table, spec = self.tables[kind], self.spec(name)
        chunk = map_chunk(self.folder, spec, unit, unit_rows=table.unit_rows)
        if (name, unit) not in self._checked:
            whole = is_as_written(
                chunk,
                spec,
                table.checksums[unit].get(name),
                lambda: [row % table.unit_rows for row in table.done_rows(unit)],
            )
            if not whole:
                raise _damaged(chunk_path(self.folder, spec, unit))
            self._checked.add((name, unit))
        if len(self._maps) >= _MOST_MAPS:
            self._maps.pop(next(iter(list(self._maps))), None)  # threads share the maps
        self._maps[name, unit] = chunk
        return chunk


def _damaged(path: Path) -> CacheError:
    return CacheError(
        f"{path} is damaged: it does not have the checksum of the journal; run "
        f"`{DROP_COMMAND}`, then `gare-cache extract` to write its unit again"
    )


def _kind(name: str) -> Kind:
    return "text" if name.startswith("text/") else "video"


def _run(places: npt.NDArray[np.int64]) -> _Places:
    """Return places that follow one another as a slice, which is copied as one piece."""
    first, last = int(places[0]), int(places[-1])
    if len(places) > 1 and last - first == len(places) - 1 and (places[1:] > places[:-1]).all():
        return slice(first, last + 1)
    return places


def open_cache(folder: Path) -> FeatureCache:
    """Open a cache for reading.

    Raises:
        CacheError: the cache is missing or of another format, or a chunk that the journal records
            is missing or has the wrong size.
    """
    with ThreadPoolExecutor(len(KINDS)) as pool:  # while the journal is read
        sources = {kind: pool.submit(read_sources, folder, kind) for kind in KINDS}
        records = journal.read(folder)
        cache = open_unchecked(folder, records, lambda _, kind: sources[kind].result())
    check_chunk_sizes(folder, cache.layout, cache.tables)
    return cache


def open_unchecked(
    folder: Path,
    records: Sequence[journal.UnitRecord],
    read: Callable[[Path, Kind], Sources] = read_sources,
) -> FeatureCache:
    """Open a cache without checking its chunks, for verification.

    Args:
        folder: the cache folder.
        records: its journal.
        read: reads the sources of a kind.

    Raises:
        CacheError: the cache is missing or of another format, or its tables are damaged.
    """
    attributes = read_attributes(folder)
    layout = Layout(**attributes["layout"])
    return FeatureCache(
        folder=folder,
        attributes=attributes,
        layout=layout,
        tables=read_rows(folder, records, stored_unit_rows(layout, folder), read),
        records=records,
    )
