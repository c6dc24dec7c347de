"""Encode the rows of one unit: always the same batches, so always the same bytes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gare_cache.cache.journal import RowOutcome
from gare_cache.cache.schema import Layout
from gare_cache.cache.writer import CacheWriter, PendingUnit
from gare_cache.encoders.encoder import Encoder
from gare_cache.errors import EncoderError
from gare_cache.stages.decode_videos import DecodedVideo


@dataclass(frozen=True)
class EncodedUnit:
    """What a unit's commit needs: values by array name, outcomes, thumbnails, seconds by side."""

    values: dict[str, npt.NDArray[Any]]
    outcomes: list[RowOutcome]
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def encode_videos(
    encoder: Encoder,
    rows: Sequence[int],
    decoded: Iterable[DecodedVideo],
    *,
    layout: Layout,
    batch_frames: int,
    on_video: Callable[[int], None],
) -> EncodedUnit:
    """Encode the videos of a unit as they are decoded.

    Frames are encoded in the order of the rows in batches of one fixed shape, the last one filled
    with zeros; a batch never crosses the unit.

    Args:
        encoder: the frozen encoder.
        rows: row of each video, ascending.
        decoded: the videos in that order.
        layout: shapes of the cache.
        batch_frames: frames a batch.
        on_video: called with 1 for every video that is done.

    Returns:
        Values in the order of ``rows``; a video that cannot be decoded, or whose features are not
        finite in float16, has none, and its outcome says why.
    """
    batcher = _FixedBatches(encoder, batch_frames)
    videos: list[DecodedVideo] = []
    waiting = _Stopwatch(decoded)
    for video in waiting:
        if video.frames is not None:
            batcher.add(video.frames)
        videos.append(replace(video, frames=None))  # a unit's pixels do not fit into memory
        on_video(1)
    seconds = {"wait": waiting.seconds, "decode": sum(video.seconds for video in videos)}
    unit = _gathered(rows, videos, batcher.finish(), layout)
    return replace(unit, seconds={**seconds, "encode": batcher.seconds})


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


@contextmanager
def committing(writer: CacheWriter) -> Iterator[Callable[[PendingUnit, EncodedUnit], None]]:
    """Write units in a thread of their own, one behind the caller.

    Yields:
        A function that hands a unit over, once the unit before it is durable. What its writing
        raises is raised by the next call, or at the end of the block.
    """
    running: deque[Future[None]] = deque()

    def commit(unit: PendingUnit, encoded: EncodedUnit) -> None:
        if running:
            running.popleft().result()
        running.append(
            pool.submit(
                writer.commit,
                unit,
                encoded.values,
                encoded.outcomes,
                thumbnails=encoded.thumbnails,
                seconds=encoded.seconds,
            )
        )

    with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
        yield commit
        if running:
            running.popleft().result()


def _gathered(
    rows: Sequence[int],
    videos: Sequence[DecodedVideo],
    features: npt.NDArray[np.float16],
    layout: Layout,
) -> EncodedUnit:
    """Deal the features of all frames out to the videos."""
    values = {spec.name: spec.empty(len(rows)) for spec in layout.arrays("video")}
    outcomes, start = [], 0
    for i, (row, video) in enumerate(zip(rows, videos, strict=True)):
        own = features[start : start + len(video.times)]
        start += len(video.times)
        outcome = _outcome(row, video, own)
        if outcome.reason is None:
            values["video/frames"][i, : len(own)] = own
            values["video/times"][i, : len(own)] = video.times
            values["video/num_frames"][i] = len(own)
        outcomes.append(outcome)
    pictures = zip(rows, (video.thumbnail for video in videos), strict=True)
    thumbnails = {row: picture for row, picture in pictures if picture is not None}
    return EncodedUnit(values, outcomes, thumbnails)


class _FixedBatches:
    """Encode frames as they come, always ``size`` at a time."""

    def __init__(self, encoder: Encoder, size: int) -> None:
        self._encoder = encoder
        self._size = size
        self._waiting: list[Tensor] = []
        self._running: deque[Tensor] = deque()
        self._features: list[npt.NDArray[np.float16]] = []
        self.seconds = 0.0

    def add(self, frames: npt.NDArray[np.uint8]) -> None:
        started = time.perf_counter()
        self._waiting.append(self._encoder.to_images(frames))
        while sum(map(len, self._waiting)) >= self._size:
            waiting = torch.cat(self._waiting)
            self._encode(waiting[: self._size], self._size)
            self._waiting = [waiting[self._size :]]
        self.seconds += time.perf_counter() - started

    def finish(self) -> npt.NDArray[np.float16]:
        started = time.perf_counter()
        waiting = torch.cat(self._waiting) if self._waiting else torch.empty(0)
        if len(waiting):
            padding = waiting.new_zeros(self._size - len(waiting), *waiting.shape[1:])
            self._encode(torch.cat([waiting, padding]), len(waiting))
        while self._running:
            self._fetch()
        self.seconds += time.perf_counter() - started
        empty = np.empty((0, self._encoder.dim), dtype="<f2")
        return np.concatenate([empty, *self._features])

    def _encode(self, images: Tensor, real: int) -> None:
        # Fetched one batch later, so that a GPU has the next batch before this one is done.
        self._running.append(self._encoder.encode_frames(images)[:real])
        if len(self._running) > 1:
            self._fetch()

    def _fetch(self) -> None:
        features = self._running.popleft().cpu().numpy()
        with np.errstate(over="ignore"):  # infinity is found and recorded by the caller
            self._features.append(features.astype("<f2"))


class _Stopwatch:
    """Hand items on and count the seconds spent waiting for them."""

    def __init__(self, items: Iterable[DecodedVideo]) -> None:
        self._items = iter(items)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[DecodedVideo]:
        return self

    def __next__(self) -> DecodedVideo:
        started = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.seconds += time.perf_counter() - started


def _outcome(row: int, video: DecodedVideo, features: npt.NDArray[np.float16]) -> RowOutcome:
    if video.reason is not None:
        return RowOutcome(row, reason=video.reason)
    if not np.isfinite(features).all():
        return RowOutcome(row, reason="its features are not finite in float16")
    return RowOutcome(
        row,
        decoder=video.decoder,
        switch_reason=video.switch_reason,
        digest=video.digest,
    )
