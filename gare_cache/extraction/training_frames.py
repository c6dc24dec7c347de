"""Frames to train an encoder on: decoded or read, and augmented in worker processes.

The workers import this module, so it must not import torch, zarr or open_clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from gare_cache.cache.faults import FRAMES_COMMAND, frame_errors
from gare_cache.encoders.augmentation import augment_frames
from gare_cache.encoders.preprocessing import Frames, Preprocessing
from gare_cache.errors import CacheError, DecodeError, EnvironmentFailure, counted
from gare_cache.extraction.decode import (
    AHEAD_BYTES,
    DecodedVideo,
    decode_video,
    lost_video,
    torch_memory_errors,
)
from gare_cache.processes.workers import LostJob, in_workers

if TYPE_CHECKING:
    from gare_cache.cache.reader import FeatureCache

_AUGMENT_SECONDS = 600.0  # nothing waits on a file here; a worker that hangs is an error of ours


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


@contextmanager
def cached_frames(
    requests: Sequence[FrameRequest],
    *,
    cache: FeatureCache,
    max_frames: int,
    augmentation: Augmentation | None,
    workers: int,
) -> Iterator[Iterator[Frames]]:
    """Read videos from a cache of frames; worker processes augment them, if anything does.

    The frames are those that ``decoded_frames`` decodes with the sampler of the cache: all of a
    video, or ``max_frames`` of them spread evenly.

    Args:
        requests: as for ``decoded_frames``.
        cache: the cache of frames.
        max_frames: maximum number of frames per video, at most that of the cache.
        augmentation: as for ``decoded_frames``.
        workers: number of concurrent processes that augment.

    Yields:
        As ``decoded_frames``.

    Raises:
        CacheError: the cache holds too few frames, or not these files.
        DecodeError, EnvironmentFailure: as ``decoded_frames``.
    """
    stored = _Stored(requests, cache, max_frames)
    if augmentation is None or all(request.draw is None for request in requests):
        yield (frames for _, frames in stored)
        return
    work = partial(_augmented_stored, augmentation=augmentation)
    with in_workers(
        work,
        stored,
        workers=workers,
        deadline_seconds=_AUGMENT_SECONDS,
        ahead_bytes=AHEAD_BYTES,
    ) as results:
        yield _whole(requests, results)


class _Stored(Sequence[tuple[FrameRequest, Frames]]):
    """Requests with their frames, each of which is read when it is asked for."""

    def __init__(
        self, requests: Sequence[FrameRequest], cache: FeatureCache, max_frames: int
    ) -> None:
        if max_frames > cache.layout.max_frames:
            raise CacheError(
                f"{cache.folder} holds up to {cache.layout.max_frames} frames of a video, not "
                f"{max_frames}; raise extract.max_frames_cached and run `{FRAMES_COMMAND}`"
            )
        sources = {request.source["video_id"]: dict(request.source) for request in requests}
        table = cache.tables["video"]
        if differing := table.differing(list(sources.values())):
            raise CacheError(
                f"{cache.folder} holds {counted(len(differing), 'video')} of another file (first: "
                f"{differing[0]!r}); run `{FRAMES_COMMAND}`"
            )
        self._requests, self._cache, self._max_frames = requests, cache, max_frames
        with frame_errors(cache.folder):
            lengths = cache.num_frames(list(sources)).tolist()
        self._lengths = dict(zip(sources, lengths, strict=True))
        self._failures = cache.failures()

    def __len__(self) -> int:
        return len(self._requests)

    @overload
    def __getitem__(self, number: int) -> tuple[FrameRequest, Frames]: ...
    @overload
    def __getitem__(self, number: slice) -> list[tuple[FrameRequest, Frames]]: ...
    def __getitem__(
        self, number: int | slice
    ) -> tuple[FrameRequest, Frames] | list[tuple[FrameRequest, Frames]]:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        request = self._requests[number]
        id_ = request.source["video_id"]
        if id_ in self._failures:
            raise DecodeError(self._failures[id_])
        with frame_errors(self._cache.folder):  # not around the caller's block, whose errors pass
            (pixels,) = self._cache.pixels([id_])
        return request, np.array(pixels[_positions(self._lengths[id_], self._max_frames)])


def _positions(num_cached: int, max_frames: int) -> npt.NDArray[np.int64]:
    # Imported late: the workers need no torch to import this module.
    import torch

    from gare_cache.data.frames import even_positions

    chosen = even_positions(torch.tensor([num_cached]), max_frames)[0]  # (F,)
    positions: npt.NDArray[np.int64] = chosen[: min(num_cached, max_frames)].numpy()
    return positions


def _augmented_stored(
    stored: tuple[FrameRequest, Frames], *, augmentation: Augmentation
) -> DecodedVideo:
    request, frames = stored
    return _augmented(DecodedVideo(frames, np.empty(0, np.float32)), request, augmentation)


def _decoded(
    request: FrameRequest, *, augmentation: Augmentation | None, **options: Any
) -> DecodedVideo:
    decoded = decode_video(dict(request.source), described=False, **options)
    return _augmented(decoded, request, augmentation)


def _augmented(
    video: DecodedVideo, request: FrameRequest, augmentation: Augmentation | None
) -> DecodedVideo:
    if video.frames is None or augmentation is None or request.draw is None:
        return video
    try:
        with torch_memory_errors():
            frames = augment_frames(video.frames, **asdict(augmentation), draw=request.draw)
        return replace(video, frames=frames)
    except MemoryError:
        reason = f"{request.source['path']}: a worker has too little memory to augment its frames"
        return replace(video, frames=None, reason=reason, out_of_memory=True)


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
