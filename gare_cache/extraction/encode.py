"""Encode the rows of one unit in fixed batches, so that the same input gives the same bytes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gare_cache.cache.journal import RowOutcome
from gare_cache.cache.schema import LENGTHS, PATCHES, VIEWS, WORDS, Layout
from gare_cache.encoders.encoder import Encoder
from gare_cache.encoders.sentence_encoder import SentenceEncoder
from gare_cache.errors import EncoderError

# Sentences are encoded where nothing is decoded or written.
if TYPE_CHECKING:
    from gare_cache.cache.writer import CacheWriter, PendingUnit
    from gare_cache.extraction.decode import DecodedVideo

FAINT_NORM = 1e-4  # below, components fall among float16's subnormal numbers (< 6.1e-5)


@dataclass(frozen=True)
class Faint:
    """Features that float16 rounds more coarsely than others, because they are nearly zero.

    Attributes:
        count: number of features with a norm below ``FAINT_NORM``.
        error: largest relative rounding error ||x - float16(x)|| / ||x|| among them.
    """

    count: int = 0
    error: float = 0.0

    def __add__(self, other: Faint) -> Faint:
        return Faint(self.count + other.count, max(self.error, other.error))


def faint_features(features: npt.NDArray[np.float32]) -> Faint:
    """Find the features (..., D) whose norm is above 0 and below ``FAINT_NORM``."""
    vectors = features.reshape(-1, features.shape[-1])
    norms = np.linalg.norm(vectors, axis=1)
    faint = (norms > 0) & (norms < FAINT_NORM)
    if not faint.any():
        return Faint()
    rounded = vectors[faint].astype("<f2").astype(np.float32)
    errors = np.linalg.norm(vectors[faint] - rounded, axis=1) / norms[faint]
    return Faint(int(faint.sum()), float(errors.max()))


@dataclass(frozen=True)
class EncodedUnit:
    """Arguments of a unit's commit (values by array name, outcomes ...), and its faint features.

    The rows in ``postponed`` failed for lack of memory: nothing is recorded of them.
    """

    values: dict[str, npt.NDArray[Any]]
    outcomes: list[RowOutcome]
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    faint: Faint = field(default_factory=Faint)
    postponed: frozenset[int] = frozenset()

    @property
    def recorded(self) -> list[RowOutcome]:
        """Outcomes of the rows that are not postponed."""
        return [outcome for outcome in self.outcomes if outcome.row not in self.postponed]

    @property
    def postponed_reasons(self) -> list[str]:
        """Why each postponed row is tried again."""
        return [o.reason for o in self.outcomes if o.row in self.postponed and o.reason]


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

    Frames are encoded in row order in batches of one fixed shape, the last one padded with zeros;
    no batch spans two units.

    Args:
        encoder: the frozen encoder.
        rows: row of each video, ascending.
        decoded: the videos in that order.
        layout: layout of the cache.
        batch_frames: frames per batch.
        on_video: called with 1 after every video.

    Returns:
        Values in the order of ``rows``; a video that cannot be decoded, or whose features are not
        finite in float16, has fill values and a reason in its outcome.
    """
    frames = _FixedBatches(encoder, batch_frames, with_patches=layout.num_patches > 0)
    views = _FixedBatches(encoder, batch_frames, with_patches=False)
    videos: list[DecodedVideo] = []
    waiting = Stopwatch(decoded)
    for video in waiting:
        if video.frames is not None:
            frames.add(video.frames)
        if video.views is not None:
            views.add(video.views.reshape(-1, *video.views.shape[2:]))  # (R F, H, W, 3)
        # The pixels of a whole unit would not fit into memory.
        videos.append(replace(video, frames=None, views=None))
        on_video(1)
    seconds = {"wait": waiting.seconds, "decode": sum(video.seconds for video in videos)}
    unit = _gathered(rows, videos, frames.finish(), views.finish()[:, 0], layout)
    return replace(
        unit,
        seconds={**seconds, "encode": frames.seconds + views.seconds},
        faint=frames.faint + views.faint,
        postponed=frozenset(
            row for row, video in zip(rows, videos, strict=True) if video.out_of_memory
        ),
    )


def encode_captions(
    encoder: SentenceEncoder,
    rows: Sequence[int],
    captions: Sequence[str],
    *,
    batch_captions: int,
    with_words: bool,
    on_captions: Callable[[int], None],
) -> EncodedUnit:
    """Encode the captions of a unit, sorted by length, in batches of a fixed size.

    Args:
        encoder: the frozen encoder, or its text tower alone.
        rows: row of each caption, ascending.
        captions: the sentences.
        batch_captions: captions per batch; the last batch is padded by repeating its last caption.
        with_words: also keep the word tokens; a caption's feature is then its token at EOT.
        on_captions: called with the number of captions encoded.

    Raises:
        EncoderError: a caption's features are not finite in float16.
    """
    started = time.perf_counter()
    tokens = encoder.tokenize(captions)
    order = torch.argsort((tokens != 0).sum(dim=1), stable=True)
    features = np.empty((len(captions), encoder.dim), dtype="<f2")
    words: dict[int, npt.NDArray[np.float16]] = {}
    faint = Faint()
    for start in range(0, len(order), batch_captions):
        batch = order[start : start + batch_captions]
        filled = tokens[torch.cat([batch, batch[-1:].expand(batch_captions - len(batch))])]
        if with_words:
            exact = encoder.encode_words(filled).numpy()  # (B, W, D)
            last = filled.argmax(dim=1).tolist()  # (B,); EOT is the largest id
            faint += faint_features(exact[range(len(batch)), last[: len(batch)]])
            encoded = exact.astype("<f2")
            words |= {int(i): encoded[k, : last[k] + 1] for k, i in enumerate(batch)}
            features[batch.numpy()] = np.stack([words[int(i)][-1] for i in batch])
        else:
            encoded = encoder.encode_tokens(filled)[: len(batch)].numpy()  # (B, D)
            faint += faint_features(encoded)
            features[batch.numpy()] = encoded.astype("<f2")
        on_captions(len(batch))
    num_bad = int((~np.isfinite(features).all(axis=1)).sum())
    num_bad += sum(not np.isfinite(w[:-1]).all() for w in words.values())
    if num_bad:
        raise EncoderError(
            f"the features of {num_bad} of {len(captions):,} captions are not finite in "
            "float16; "
            "check the weights, or set encoder.precision to fp32"
        )
    values: dict[str, npt.NDArray[Any]] = {"text/features": features}
    if with_words:
        ordered = [words[i] for i in range(len(captions))]
        values[LENGTHS] = np.array([len(tokens) for tokens in ordered], dtype="<i4")
        values[WORDS] = np.concatenate(ordered)  # (sum W, D)
    outcomes = [RowOutcome(row) for row in rows]
    seconds = {"encode": time.perf_counter() - started}
    return EncodedUnit(values, outcomes, seconds=seconds, faint=faint)


@contextmanager
def committing(writer: CacheWriter) -> Iterator[Callable[[PendingUnit, EncodedUnit], None]]:
    """Commit units in a background thread, at most one behind the caller.

    Yields:
        A function that queues a unit once the previous unit is durable. An exception of a commit
        is raised by the next call, or at the end of the block.
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
                encoded.recorded,
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
    tokens: npt.NDArray[np.float16],
    views: npt.NDArray[np.float16],
    layout: Layout,
) -> EncodedUnit:
    """Distribute the tokens of all frames and the features of all views over the videos."""
    values = {spec.name: spec.empty(len(rows)) for spec in layout.arrays("video")}
    outcomes, start = [], 0
    for i, (row, video) in enumerate(zip(rows, videos, strict=True)):
        length = len(video.times)
        end = start + length
        frame_tokens = tokens[start:end]  # (F, 1 + P, D)
        augmented = views[layout.num_views * start : layout.num_views * end]  # (R F, D)
        start = end
        outcome = _outcome(row, video, frame_tokens, augmented)
        if outcome.reason is None:
            values["video/frames"][i, :length] = frame_tokens[:, 0]
            values["video/times"][i, :length] = video.times
            values["video/num_frames"][i] = length
            if layout.num_views:
                values[VIEWS][i, :, :length] = augmented.reshape(-1, length, layout.dim)
            if layout.num_patches:
                values[PATCHES][i, :length] = frame_tokens[:, 1:]
        outcomes.append(outcome)
    pictures = zip(rows, (video.thumbnail for video in videos), strict=True)
    thumbnails = {row: picture for row, picture in pictures if picture is not None}
    return EncodedUnit(values, outcomes, thumbnails)


class _FixedBatches:
    """Encode a stream of frames in batches of exactly ``size`` into (1 + P, D) tokens per frame."""

    def __init__(self, encoder: Encoder, size: int, *, with_patches: bool) -> None:
        self._encoder = encoder
        self._size = size
        self._with_patches = with_patches
        self._waiting: list[Tensor] = []
        self._running: deque[Tensor] = deque()
        self._features: list[npt.NDArray[np.float16]] = []
        self.seconds = 0.0
        self.faint = Faint()

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
        if not self._features:
            return np.empty((0, 1, self._encoder.dim), dtype="<f2")
        return np.concatenate(self._features)

    def _encode(self, images: Tensor, real: int) -> None:
        # Fetched one batch later, so that a GPU gets the next batch before it finishes this one.
        if self._with_patches:
            tokens = self._encoder.encode_frame_tokens(images)
        else:
            tokens = self._encoder.encode_frames(images)[:, None]  # (B, 1, D)
        self._running.append(tokens[:real])
        if len(self._running) > 1:
            self._fetch()

    def _fetch(self) -> None:
        features = self._running.popleft().cpu().numpy()  # (B, 1 + P, D)
        self.faint += faint_features(features[:, 0])
        with np.errstate(over="ignore"):  # the caller detects and records infinity
            self._features.append(features.astype("<f2"))


class Stopwatch:
    """Iterate over items and count the seconds spent waiting for them."""

    def __init__(self, items: Iterable[DecodedVideo]) -> None:
        """Take the items; nothing is waited for yet."""
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


def _outcome(row: int, video: DecodedVideo, *features: npt.NDArray[np.float16]) -> RowOutcome:
    if video.reason is not None:
        return RowOutcome(row, reason=video.reason)
    if not all(np.isfinite(values).all() for values in features):
        return RowOutcome(row, reason="its features are not finite in float16")
    return RowOutcome(
        row,
        decoder=video.decoder,
        switch_reason=video.switch_reason,
        digest=video.digest,
    )
