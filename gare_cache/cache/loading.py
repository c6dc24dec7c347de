"""A finished cache as numpy arrays, by split and by id, for use outside gare-cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gare_cache.cache.exchange.identity import is_imported
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.rows import ID
from gare_cache.cache.schema import MANIFEST, Kind
from gare_cache.errors import CacheError, counted, unknown_name
from gare_cache.manifest.tables import Manifest, read_manifest


@dataclass(frozen=True, eq=False, repr=False)
class LoadedSplit:
    """Features of one split, without videos that have no features and their captions.

    Attributes:
        name: name of the split.
        video_ids: V ids, the rows of ``frames``, ``times``, ``num_frames``.
        frames: (V, F, D) float16 projected frame features, not normalised, NaN on padding.
        times: (V, F) float32 seconds from the start of the file, NaN on padding.
        num_frames: (V,) int32, at least 1.
        caption_ids: T ids, the rows of ``text`` and ``video_of_text``.
        captions: T sentences.
        text: (T, D) float16 pooled caption features, not normalised.
        video_of_text: (T,) int64, row of each caption's video.
        failed: videos of the split that could not be encoded, with the reason.
        missing: videos of the split without a file, or absent from the imported features.
    """

    name: str
    video_ids: Sequence[str]
    frames: npt.NDArray[np.float16]
    times: npt.NDArray[np.float32]
    num_frames: npt.NDArray[np.int32]
    caption_ids: Sequence[str]
    captions: Sequence[str]
    text: npt.NDArray[np.float16]
    video_of_text: npt.NDArray[np.int64]
    failed: Mapping[str, str]
    missing: Sequence[str]

    def __repr__(self) -> str:
        videos, captions = len(self.video_ids), len(self.caption_ids)
        counts = f"{counted(videos, 'video')}, {counted(captions, 'caption')}"
        return f"LoadedSplit({self.name!r}, {counts}, dim {self.text.shape[1]})"

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """(V, F), True where a frame is real."""
        return np.asarray(np.arange(self.frames.shape[1]) < self.num_frames[:, None])


@dataclass(frozen=True, eq=False, repr=False)
class LoadedCache:
    """A cache in memory, made by ``load_cache``.

    Attributes:
        encoder_id: identity of the encoder.
        extraction_id: identity of the extraction.
        content_digest: digest of the ids, their states and the checksums of the chunks.
        splits: name -> features.
    """

    encoder_id: str
    extraction_id: str
    content_digest: str
    splits: Mapping[str, LoadedSplit]
    _cache: FeatureCache
    _video_rows: Mapping[str, tuple[str, int]]
    _caption_rows: Mapping[str, tuple[str, int]]

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}: {len(s.video_ids):,}" for name, s in self.splits.items())
        return f"LoadedCache({str(self._cache.folder)!r}, videos in {splits})"

    def split(self, name: str) -> LoadedSplit:
        """Return a split.

        Raises:
            CacheError: the name is unknown; the message lists the known ones.
        """
        if name not in self.splits:
            raise CacheError(unknown_name("split", name, self.splits))
        return self.splits[name]

    def video(self, video_id: str) -> npt.NDArray[np.float16]:
        """Return the (F', D) features of a video's real frames.

        Raises:
            CacheError: the video has no features.
        """
        split, row = _find("video", video_id, self._video_rows)
        features = self.splits[split]
        return features.frames[row, : features.num_frames[row]]

    def caption(self, caption_id: str) -> npt.NDArray[np.float16]:
        """Return the (D,) feature of a caption.

        Raises:
            CacheError: the caption has no features, or its video has none.
        """
        split, row = _find("caption", caption_id, self._caption_rows)
        return np.asarray(self.splits[split].text[row])

    def views(self, video_id: str) -> npt.NDArray[np.float16]:
        """Return the (R, F', D) augmented features of a video's real frames, memory-mapped.

        Raises:
            CacheError: the video has no features, or the cache holds no views.
        """
        num_frames = len(self.video(video_id))
        return self._cache.views([video_id])[0][:, :num_frames]

    def patches(self, video_id: str) -> npt.NDArray[np.float16]:
        """Return the (F', P, D) patch tokens of a video's real frames, memory-mapped.

        Raises:
            CacheError: the video has no features, or the cache holds no patch tokens.
        """
        num_frames = len(self.video(video_id))
        return self._cache.patches([video_id])[0][:num_frames]

    def words(self, caption_id: str) -> npt.NDArray[np.float16]:
        """Return the (L, D) word tokens of a caption, memory-mapped; the last is its feature.

        Raises:
            CacheError: the caption has no features, or the cache holds no word tokens.
        """
        _find("caption", caption_id, self._caption_rows)
        return self._cache.words([caption_id])[0]


def load_cache(folder: Path | str, *, manifest: Path | str | None = None) -> LoadedCache:
    """Load a finished cache into memory.

    Args:
        folder: ``ROOT/<dataset>-<id12>``.
        manifest: folder of the tables that ``prepare`` wrote; None takes the copy that the last
            finished extraction left in the cache. It assigns items to splits.

    Raises:
        CacheError: the cache is missing, the size of a file shows damage, or an item of the
            manifest is not done.
        AnnotationError: the manifest is missing or has other columns.
    """
    cache = open_cache(Path(folder))
    tables = read_manifest(cache.folder / MANIFEST if manifest is None else Path(manifest))
    names = dict.fromkeys(tables.videos["split"].to_pylist())
    splits = {name: _load_split(cache, tables, name) for name in names}
    return LoadedCache(
        encoder_id=cache.encoder_id,
        extraction_id=cache.extraction_id,
        content_digest=cache.content_digest,
        splits=MappingProxyType(splits),
        _cache=cache,
        _video_rows=_rows({name: split.video_ids for name, split in splits.items()}),
        _caption_rows=_rows({name: split.caption_ids for name, split in splits.items()}),
    )


def _load_split(cache: FeatureCache, manifest: Manifest, name: str) -> LoadedSplit:
    listed = of_split(manifest.videos, name)["video_id"].to_pylist()
    present = of_split(expected_items(cache, manifest, "video"), name)["video_id"].to_pylist()
    features = cache.videos(present)
    kept = features.num_frames > 0
    video_ids = [id_ for id_, keep in zip(present, kept, strict=True) if keep]
    captions, video_of_text = captions_of(cache, manifest.captions, video_ids)
    caption_ids = captions["caption_id"].to_pylist()
    failures = cache.failures()
    return LoadedSplit(
        name=name,
        video_ids=tuple(video_ids),
        frames=features.frames[kept],
        times=features.times[kept],
        num_frames=features.num_frames[kept],
        caption_ids=tuple(caption_ids),
        captions=tuple(captions["caption"].to_pylist()),
        text=cache.captions(caption_ids),
        video_of_text=video_of_text,
        failed={id_: failures[id_] for id_ in present if id_ in failures},
        missing=tuple(sorted(set(listed) - set(present))),
    )


def of_split(table: pa.Table, name: str) -> pa.Table:
    """Return the rows of a split."""
    return table.filter(pc.equal(table["split"], name))


def captions_of(
    cache: FeatureCache, captions: pa.Table, video_ids: Sequence[str]
) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """Return the captions with features of some videos, and the place of each one's video."""
    kept = captions_with_features(cache, captions)
    places = pc.index_in(kept["video_id"], pa.array(video_ids, pa.string()))
    return kept.filter(pc.is_valid(places)), places.drop_null().to_numpy().astype(np.int64)


def captions_with_features(cache: FeatureCache, captions: pa.Table) -> pa.Table:
    """Leave out the captions whose features an import could not use."""
    failed = pa.array(cache.tables["text"].failed_ids(), pa.string())
    if not len(failed):
        return captions
    return captions.filter(pc.invert(pc.is_in(captions["caption_id"], failed)))


def _rows(ids_of: Mapping[str, Sequence[Any]]) -> dict[str, tuple[str, int]]:
    return {id_: (name, row) for name, ids in ids_of.items() for row, id_ in enumerate(ids)}


def _find(kind: str, id_: str, rows: Mapping[str, tuple[str, int]]) -> tuple[str, int]:
    if id_ not in rows:
        raise CacheError(f"{unknown_name(kind, id_, rows)}; only items with features are loaded")
    return rows[id_]


def expected_items(cache: FeatureCache, manifest: Manifest, kind: Kind) -> pa.Table:
    """Return the manifest's rows that the cache must hold.

    These are the videos with a file and their captions; for an imported cache, the imported items.
    """
    if not is_imported(cache):
        return manifest.videos_with_files() if kind == "video" else manifest.with_files().captions
    rows = manifest.videos if kind == "video" else manifest.captions
    return rows.filter(pc.is_in(rows[ID[kind]], pa.array(cache.tables[kind].latest(), pa.string())))
