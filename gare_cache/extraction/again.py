"""Encode or decode cached items again and compare with what is in the cache."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache.reader import FeatureCache
from gare_cache.cache.schema import KINDS, LENGTHS, PATCHES, PIXELS, VIEWS, WORDS, Kind
from gare_cache.encoders.augmentation import Views
from gare_cache.encoders.encoder import Encoder
from gare_cache.encoders.preprocessing import Preprocessing
from gare_cache.encoders.settings import ExtractSettings
from gare_cache.errors import counted
from gare_cache.extraction.decode import DecodedVideo, decode_in_workers
from gare_cache.extraction.encode import encode_captions, encode_videos
from gare_cache.extraction.frame_cache import gather_frames
from gare_cache.extraction.project_encoder import project_views
from gare_cache.manifest.tables import Manifest
from gare_cache.project.progress import progress

# float16 moves a cosine by 5e-5, bfloat16 by 3e-3, another frame or file by far more.
_LEAST_COSINE = 0.99
_WORKERS = 2


@dataclass(frozen=True, eq=False)
class Comparison:
    """An item of the cache compared with the same item encoded, or its frames decoded, again.

    Attributes:
        kind: ``video`` or ``text``.
        item: id of the video or caption.
        cosines: one per feature vector; empty for frames, and if there is nothing to compare.
        equal: whether all bits are equal.
        reason: why the item could not be encoded again or compared; else None.
    """

    kind: Kind
    item: str
    cosines: npt.NDArray[np.float64]
    equal: bool
    reason: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether the item was compared and every cosine is at least 0.99, or frames are equal."""
        if self.reason is not None or not self.cosines.size:
            return self.equal
        return float(self.cosines.min()) >= _LEAST_COSINE

    def __str__(self) -> str:
        if self.reason is not None:
            return f"{self.kind} {self.item}: {self.reason}"
        bits = "bit for bit equal" if self.equal else "not bit for bit equal"
        if not self.cosines.size:
            return f"{self.kind} {self.item}: {bits}"
        return (
            f"{self.kind} {self.item}: cosine min {self.cosines.min():.6f} mean "
            f"{self.cosines.mean():.6f}, {bits}"
        )


def encode_again(
    cache: FeatureCache,
    manifest: Manifest,
    encoder: Encoder,
    settings: ExtractSettings,
    *,
    count: int,
    seed: int,
) -> list[Comparison]:
    """Decode and encode random cached items again and compare them with the cache.

    Args:
        cache: the features; the encoder and settings are those it was made with.
        manifest: paths of the videos and sentences of the captions.
        encoder: the frozen encoder.
        settings: of the extraction.
        count: number of videos, and of captions.
        seed: random seed of the choice.
    """
    chosen = _choose(cache, manifest, count=count, seed=seed)
    return [
        *_compare_videos(cache, encoder, settings, chosen["video"]),
        *_compare_captions(cache, encoder, settings, chosen["text"]),
    ]


def decode_again(
    cache: FeatureCache,
    manifest: Manifest,
    preprocessing: Preprocessing,
    settings: ExtractSettings,
    *,
    count: int,
    seed: int,
) -> list[Comparison]:
    """Decode random videos of a cache of frames again; pixels, times and number must be equal.

    Args:
        cache: the frames; preprocessing and settings are those it was made with.
        manifest: paths of the videos.
        preprocessing: how frames are resized.
        settings: of the extraction.
        count: number of videos.
        seed: random seed of the choice.
    """
    sources = _choose(cache, manifest, count=count, seed=seed)["video"]
    ids = [source["video_id"] for source in sources]
    with (
        _decoding(sources, settings, preprocessing) as decoded,
        progress("decode again", len(sources)) as advance,
    ):
        again = gather_frames(range(len(ids)), decoded, layout=cache.layout, on_video=advance)
    stored: dict[str, Sequence[Any]] = {
        PIXELS: cache.pixels(ids),
        "video/times": list(cache.times(ids, cache.layout.max_frames)),
        "video/num_frames": list(cache.num_frames(ids)),
    }
    return [
        _compare_frames(
            id_,
            {name: np.asarray(values[i]) for name, values in stored.items()},
            {name: again.values[name][i] for name in stored},
            reason=again.outcomes[i].reason,
        )
        for i, id_ in enumerate(ids)
    ]


def _compare_frames(
    id_: str,
    stored: dict[str, npt.NDArray[Any]],
    repeated: dict[str, npt.NDArray[Any]],
    *,
    reason: str | None,
) -> Comparison:
    differing = [name for name in stored if stored[name].tobytes() != repeated[name].tobytes()]
    if reason is None and PIXELS in differing:
        apart = stored[PIXELS] != repeated[PIXELS]  # (F, H, W, 3)
        frames = counted(int(apart.any(axis=(1, 2, 3)).sum()), "frame", "differ")
        largest = np.abs(stored[PIXELS].astype(int) - repeated[PIXELS]).max()
        reason = f"{frames} from the cache, by up to {largest} of 255"
    elif reason is None and differing:
        reason = f"{differing[0]} differs from the cache"
    return Comparison("video", id_, np.empty(0), equal=reason is None, reason=reason)


def _decoding(
    sources: list[dict[str, Any]],
    settings: ExtractSettings,
    preprocessing: Preprocessing,
    views: Views | None = None,
) -> AbstractContextManager[Iterator[DecodedVideo]]:
    return decode_in_workers(
        sources,
        sampler=settings.sampler,
        max_frames=settings.max_frames_cached,
        preprocessing=preprocessing,
        workers=_WORKERS,
        deadline_seconds=settings.deadline_seconds,
        most_pixels=settings.max_frame_pixels,
        memory_bytes=settings.worker_memory_bytes,
        views=views,
    )


def _choose(
    cache: FeatureCache, manifest: Manifest, *, count: int, seed: int
) -> dict[Kind, list[dict[str, Any]]]:
    generator = random.Random(seed)
    listed = {
        "video": {row["video_id"]: row for row in manifest.videos.to_pylist() if row["path"]},
        "text": {row["caption_id"]: row for row in manifest.captions.to_pylist()},
    }
    chosen: dict[Kind, list[dict[str, Any]]] = {}
    for kind in KINDS:
        table = cache.tables[kind]
        ids = [
            id_
            for id_, row in table.latest().items()
            if table.status(row) == "ok" and id_ in listed[kind]
        ]
        picked = sorted(generator.sample(range(len(ids)), min(count, len(ids))))
        chosen[kind] = [listed[kind][ids[i]] for i in picked]
    return chosen


def _compare_videos(
    cache: FeatureCache,
    encoder: Encoder,
    settings: ExtractSettings,
    sources: list[dict[str, Any]],
) -> Iterator[Comparison]:
    rows = range(len(sources))
    with (
        _decoding(sources, settings, encoder.preprocessing, project_views(settings)) as decoded,
        progress("encode again", len(sources)) as advance,
    ):
        encoded = encode_videos(
            encoder,
            rows,
            decoded,
            layout=cache.layout,
            batch_frames=settings.batch_frames,
            on_video=advance,
        )
    ids = [source["video_id"] for source in sources]
    stored = cache.videos(ids)
    views = cache.views(ids) if cache.layout.num_views else []
    patches = cache.patches(ids) if cache.layout.num_patches else []
    for i, source in enumerate(sources):
        length = int(stored.num_frames[i])
        reason = encoded.outcomes[i].reason
        if reason is None and encoded.values["video/num_frames"][i] != length:
            reason = (
                f"{counted(encoded.values['video/num_frames'][i], 'frame')} instead of {length}"
            )
        cached = [stored.frames[i, :length]]
        repeated = [encoded.values["video/frames"][i, :length]]
        if views:
            cached.append(views[i][:, :length])
            repeated.append(encoded.values[VIEWS][i, :, :length])
        if patches:
            cached.append(patches[i][:length])
            repeated.append(encoded.values[PATCHES][i, :length])
        pair = (_as_rows(cached), _as_rows(repeated))
        yield _compare("video", source["video_id"], *pair, reason=reason)


def _compare_captions(
    cache: FeatureCache,
    encoder: Encoder,
    settings: ExtractSettings,
    sources: list[dict[str, Any]],
) -> Iterator[Comparison]:
    if not sources:
        return
    encoded = encode_captions(
        encoder,
        range(len(sources)),
        [source["caption"] for source in sources],
        batch_captions=settings.batch_captions,
        with_words=cache.layout.words,
        on_captions=lambda _: None,
    )
    ids = [source["caption_id"] for source in sources]
    stored: Sequence[npt.NDArray[Any]] = list(cache.captions(ids)[:, None])
    repeated: Sequence[npt.NDArray[Any]] = list(encoded.values["text/features"][:, None])
    if cache.layout.words:
        stored = cache.words(ids)
        repeated = np.split(encoded.values[WORDS], np.cumsum(encoded.values[LENGTHS])[:-1])
    for id_, *pair in zip(ids, stored, repeated, strict=True):
        yield _compare("text", id_, *pair, reason=None)


def _as_rows(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])


def _compare(
    kind: Kind,
    item: str,
    stored: npt.NDArray[Any],
    repeated: npt.NDArray[Any],
    *,
    reason: str | None,
) -> Comparison:
    if reason is not None:
        return Comparison(kind, item, np.empty(0), equal=False, reason=reason)
    a, b = stored.astype(np.float64), repeated.astype(np.float64)
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return Comparison(kind, item, cosines, equal=stored.tobytes() == repeated.tobytes())
