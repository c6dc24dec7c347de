"""Encode the rows of one unit: always the same batches, so always the same bytes."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from gare_cache.cache.journal import RowOutcome
from gare_cache.cache.schema import Layout
from gare_cache.encoders.encoder import Encoder
from gare_cache.errors import DecodeError, EncoderError
from gare_cache.files import file_digest
from gare_cache.video.decoding import DecodedClip, decode_clip

_THUMBNAIL_PIXELS = 128


@dataclass(frozen=True)
class EncodedUnit:
    """What a unit's commit needs: values by array name, outcomes, thumbnails, seconds by side."""

    values: dict[str, npt.NDArray[Any]]
    outcomes: list[RowOutcome]
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Prepared:
    """A video ready to be encoded, or the reason why it is not."""

    images: Tensor | None
    times: npt.NDArray[np.float32]
    outcome: RowOutcome
    thumbnail: bytes | None
    seconds: float


def encode_videos(
    encoder: Encoder,
    rows: Sequence[int],
    sources: Sequence[dict[str, Any]],
    *,
    sampler: str,
    layout: Layout,
    batch_frames: int,
    pool: Executor,
    ahead: int,
    on_video: Callable[[int], None],
) -> EncodedUnit:
    """Decode, preprocess and encode the videos of a unit.

    Frames are encoded in the order of the rows in batches of one fixed shape, the last one filled
    with zeros; a batch never crosses the unit.

    Args:
        encoder: the frozen encoder.
        rows: row of each video, ascending.
        sources: row of the cache's table for each.
        sampler: name of the sampler.
        layout: shapes of the cache.
        batch_frames: frames a batch.
        pool: threads that decode and preprocess.
        ahead: videos decoded ahead of the encoder.
        on_video: called with 1 for every video that is done.

    Returns:
        Values in the order of ``rows``; a video that cannot be decoded, or whose features are not
        finite in float16, has none, and its outcome says why.
    """

    def prepare(row: int, source: dict[str, Any]) -> _Prepared:
        return _prepare(encoder, row, source, sampler=sampler, max_frames=layout.max_frames)

    batcher = _FixedBatches(encoder, batch_frames)
    prepared: list[_Prepared] = []
    jobs = zip(rows, sources, strict=True)
    for item in _in_order(pool, prepare, jobs, ahead=ahead):
        if item.images is not None:
            batcher.add(item.images)
        prepared.append(replace(item, images=None))  # a unit's pixels do not fit into memory
        on_video(1)
    features = batcher.finish()
    values = {spec.name: spec.empty(len(rows)) for spec in layout.arrays("video")}
    outcomes, start = [], 0
    for i, item in enumerate(prepared):
        own = features[start : start + len(item.times)]
        start += len(item.times)
        outcome = item.outcome
        if outcome.reason is None and not np.isfinite(own).all():
            outcome = RowOutcome(outcome.row, reason="its features are not finite in float16")
        if outcome.reason is None:
            values["video/frames"][i, : len(own)] = own
            values["video/times"][i, : len(own)] = item.times
            values["video/num_frames"][i] = len(own)
        outcomes.append(outcome)
    thumbnails = {
        item.outcome.row: item.thumbnail for item in prepared if item.thumbnail is not None
    }
    seconds = {"decode": sum(item.seconds for item in prepared), "encode": batcher.seconds}
    return EncodedUnit(values, outcomes, thumbnails, seconds)


def encode_captions(
    encoder: Encoder,
    rows: Sequence[int],
    captions: Sequence[str],
    *,
    batch_captions: int,
    on_captions: Callable[[int], None],
) -> EncodedUnit:
    """Encode the captions of a unit, sorted by length, in batches of one fixed size.

    Args:
        encoder: the frozen encoder.
        rows: row of each caption, ascending.
        captions: the sentences.
        batch_captions: captions a batch; the last one is filled with its last caption.
        on_captions: called with the number of captions done.

    Raises:
        EncoderError: a caption's features are not finite in float16.
    """
    started = time.perf_counter()
    tokens = encoder.tokenize(captions)
    order = torch.argsort((tokens != 0).sum(dim=1), stable=True)
    features = np.empty((len(captions), encoder.dim), dtype="<f2")
    for start in range(0, len(order), batch_captions):
        batch = order[start : start + batch_captions]
        filled = torch.cat([batch, batch[-1:].expand(batch_captions - len(batch))])
        encoded = encoder.encode_tokens(tokens[filled])[: len(batch)]
        features[batch.numpy()] = encoded.numpy().astype("<f2")
        on_captions(len(batch))
    num_bad = int((~np.isfinite(features).all(axis=1)).sum())
    if num_bad:
        raise EncoderError(
            f"the features of {num_bad} of {len(captions)} captions are not finite in float16; "
            "check the weights, or set encoder.precision to fp32"
        )
    outcomes = [RowOutcome(row) for row in rows]
    seconds = {"encode": time.perf_counter() - started}
    return EncodedUnit({"text/features": features}, outcomes, seconds=seconds)


class _FixedBatches:
    """Encode frames as they come, always ``size`` at a time."""

    def __init__(self, encoder: Encoder, size: int) -> None:
        self._encoder = encoder
        self._size = size
        self._waiting: list[Tensor] = []
        self._features: list[npt.NDArray[np.float16]] = []
        self.seconds = 0.0

    def add(self, images: Tensor) -> None:
        self._waiting.append(images)
        while sum(map(len, self._waiting)) >= self._size:
            waiting = torch.cat(self._waiting)
            self._encode(waiting[: self._size], self._size)
            self._waiting = [waiting[self._size :]]

    def finish(self) -> npt.NDArray[np.float16]:
        waiting = torch.cat(self._waiting) if self._waiting else torch.empty(0)
        if len(waiting):
            padding = waiting.new_zeros(self._size - len(waiting), *waiting.shape[1:])
            self._encode(torch.cat([waiting, padding]), len(waiting))
        empty = np.empty((0, self._encoder.dim), dtype="<f2")
        return np.concatenate([empty, *self._features])

    def _encode(self, images: Tensor, real: int) -> None:
        started = time.perf_counter()
        features = self._encoder.encode_frames(images)[:real]
        with np.errstate(over="ignore"):  # infinity is found and recorded by the caller
            self._features.append(features.numpy().astype("<f2"))
        self.seconds += time.perf_counter() - started


def _in_order(
    pool: Executor,
    work: Callable[..., _Prepared],
    jobs: Iterator[tuple[int, dict[str, Any]]],
    *,
    ahead: int,
) -> Iterator[_Prepared]:
    running: deque[Future[_Prepared]] = deque()
    for job in jobs:
        running.append(pool.submit(work, *job))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _prepare(
    encoder: Encoder, row: int, source: dict[str, Any], *, sampler: str, max_frames: int
) -> _Prepared:
    started = time.perf_counter()
    nothing = np.empty(0, np.float32)
    try:
        clip = _decode(source, sampler=sampler, max_frames=max_frames)
        images = encoder.preprocess(clip.frames)
        outcome = RowOutcome(
            row,
            decoder=clip.decoder,
            switch_reason=clip.switch_reason,
            digest=file_digest(Path(source["path"])),
        )
    except (DecodeError, OSError) as err:
        failed = RowOutcome(row, reason=str(err))
        return _Prepared(None, nothing, failed, None, time.perf_counter() - started)
    thumbnail = _thumbnail(clip.frames[len(clip.frames) // 2])
    return _Prepared(images, clip.times, outcome, thumbnail, time.perf_counter() - started)


def _decode(source: dict[str, Any], *, sampler: str, max_frames: int) -> DecodedClip:
    path = Path(source["path"])
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) != (source["size_bytes"], source["mtime_ns"]):
        raise DecodeError(f"{path} has changed since it was listed; run `gare-cache prepare`")
    return decode_clip(
        path,
        sampler=sampler,
        max_frames=max_frames,
        start_seconds=source["start_seconds"],
        end_seconds=source["end_seconds"],
    )


def _thumbnail(frame: npt.NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(frame)
    image.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()
