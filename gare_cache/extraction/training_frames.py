"""Frames to train an encoder on: decoded and augmented in worker processes.

The workers import this module, so it must not import torch, zarr or open_clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from gare_cache.encoders.augmentation import augment_frames
from gare_cache.encoders.preprocessing import Frames, Preprocessing
from gare_cache.errors import DecodeError, EnvironmentFailure
from gare_cache.extraction.decode import (
    AHEAD_BYTES,
    DecodedVideo,
    decode_video,
    lost_video,
    torch_memory_errors,
)
from gare_cache.processes.workers import LostJob, in_workers


@dataclass(frozen=True)
class FrameRequest:
    """A video whose frames are wanted.

    Attributes:
        source: row of the cache's table of videos: id, path, size, modification time, clip.
        draw: text that alone decides the draw of the augmentation; None does not augment.
    """

    source: Mapping[str, Any]
    draw: str | None


@dataclass(frozen=True)
class Augmentation:
    """How frames are augmented; see ``encoders.augmentation.augment_frames``."""

    smallest_crop: float
    flip: bool
    operations: int
    magnitude: int


@contextmanager
def decoded_frames(
    requests: Sequence[FrameRequest],
    *,
    sampler: str,
    max_frames: int,
    preprocessing: Preprocessing,
    augmentation: Augmentation | None,
    workers: int,
    deadline_seconds: float,
    most_pixels: int,
    memory_bytes: int | None,
) -> Iterator[Iterator[Frames]]:
    """Decode and augment videos ahead of the caller in worker processes, which end with the block.

    The frames are those that an extraction decodes, and do not depend on the number of workers.

    Args:
        requests: the videos in the order in which they are wanted; they may repeat.
        sampler: name of the sampler.
        max_frames: maximum number of frames per video.
        preprocessing: how a worker shrinks frames.
        augmentation: applied to the requests with a draw; None augments none.
        workers: number of concurrent processes.
        deadline_seconds: time limit per video; a worker that exceeds it is killed.
        most_pixels: of a frame.
        memory_bytes: limit on the memory of a worker; None is no limit.

    Yields:
        (F, height, width, 3) uint8 of every request, as ``Preprocessing.shrink`` leaves them.

    Raises:
        DecodeError: from the iterator, at a video that cannot be decoded; with file and reason.
        EnvironmentFailure: from the iterator, if a worker has too little memory or cannot start.
    """
    work = partial(
        _decoded,
        augmentation=augmentation,
        sampler=sampler,
        max_frames=max_frames,
        preprocessing=preprocessing,
        most_pixels=most_pixels,
    )
    with in_workers(
        work,
        requests,
        workers=workers,
        deadline_seconds=deadline_seconds,
        ahead_bytes=AHEAD_BYTES,
        memory_bytes=memory_bytes,
    ) as results:
        yield _whole(requests, results)


def _decoded(
    request: FrameRequest, *, augmentation: Augmentation | None, **options: Any
) -> DecodedVideo:
    decoded = decode_video(dict(request.source), described=False, **options)
    if decoded.frames is None:
        return decoded
    try:
        return replace(decoded, frames=_augmented(decoded.frames, request.draw, augmentation))
    except MemoryError:
        reason = f"{request.source['path']}: a worker has too little memory to augment its frames"
        return replace(decoded, frames=None, reason=reason, out_of_memory=True)


def _augmented(frames: Frames, draw: str | None, augmentation: Augmentation | None) -> Frames:
    if augmentation is None or draw is None:
        return frames
    with torch_memory_errors():
        return augment_frames(frames, **asdict(augmentation), draw=draw)


def _whole(
    requests: Sequence[FrameRequest], results: Iterable[DecodedVideo | LostJob]
) -> Iterator[Frames]:
    """Yield the frames of videos; the first that failed ends the training that waits for them."""
    for request, result in zip(requests, results, strict=True):
        video = (
            lost_video(request.source["path"], result) if isinstance(result, LostJob) else result
        )
        if video.out_of_memory:
            raise EnvironmentFailure(
                f"{video.reason}; use fewer decoding processes or a larger "
                "extract.worker_memory_gib"
            )
        if video.frames is None:
            raise DecodeError(f"{video.reason}")
        yield video.frames
