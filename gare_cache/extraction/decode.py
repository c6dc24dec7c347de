"""Decode videos into frames for the encoder, in worker processes.

The workers import this module, so it must not import torch, zarr or open_clip.
"""

from __future__ import annotations

import io
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gare_cache.encoders.augmentation import Views, draw_views
from gare_cache.encoders.preprocessing import Frames, Preprocessing
from gare_cache.errors import DecodeError, GareCacheError
from gare_cache.files import file_digest
from gare_cache.processes.worker import near_limit
from gare_cache.processes.workers import LostJob, in_workers
from gare_cache.video.containers import MOST_PIXELS
from gare_cache.video.decoding import DecodedClip, decode_clip

# Limit on frames decoded ahead of the encoder: 3,500 of 224 x 224 px, 80 of 1080p.
AHEAD_BYTES = 512 * 2**20
_THUMBNAIL_PIXELS = 128


@dataclass(frozen=True, eq=False)
class DecodedVideo:
    """Decoded frames of a video, or the reason why decoding failed.

    Attributes:
        frames: (F, H, W, 3) uint8 RGB as ``Preprocessing.shrink`` returns them; None on failure.
        times: (F,) float32 seconds.
        reason: why decoding failed; None on success.
        decoder: name of the decoder used.
        switch_reason: why the decoder that the rule prefers was not used.
        digest: SHA-256 of the file's bytes.
        thumbnail: JPEG of the middle frame.
        views: (R, F, height, width, 3) uint8 augmented frames of the model's input size, or None.
        seconds: time that the worker took.
        out_of_memory: whether the machine failed, not the video.
    """

    frames: npt.NDArray[np.uint8] | None
    times: npt.NDArray[np.float32]
    reason: str | None = None
    decoder: str | None = None
    switch_reason: str | None = None
    digest: str | None = None
    thumbnail: bytes | None = None
    views: npt.NDArray[np.uint8] | None = None
    seconds: float = 0.0
    out_of_memory: bool = False


@contextmanager
def decode_in_workers(
    sources: Sequence[dict[str, Any]],
    *,
    sampler: str,
    max_frames: int,
    preprocessing: Preprocessing,
    workers: int,
    deadline_seconds: float,
    views: Views | None = None,
    most_pixels: int = MOST_PIXELS,
    memory_bytes: int | None = None,
) -> Iterator[Iterator[DecodedVideo]]:
    """Decode videos ahead of the caller in worker processes, which end with the block.

    Args:
        sources: rows of the cache's table.
        sampler: name of the sampler.
        max_frames: maximum number of frames per video.
        preprocessing: how the worker shrinks frames before it sends them.
        workers: number of concurrent processes.
        deadline_seconds: time limit per video; a worker that exceeds it is killed.
        views: augmented views to draw of every video.
        most_pixels: of a frame.
        memory_bytes: limit on the memory of a worker; None is no limit.

    Yields:
        The videos, in the order of the sources.
    """
    work = partial(
        decode_video,
        sampler=sampler,
        max_frames=max_frames,
        preprocessing=preprocessing,
        views=views,
        most_pixels=most_pixels,
    )
    with in_workers(
        work,
        sources,
        workers=workers,
        deadline_seconds=deadline_seconds,
        ahead_bytes=AHEAD_BYTES,
        memory_bytes=memory_bytes,
    ) as results:
        yield (
            lost_video(source["path"], result) if isinstance(result, LostJob) else result
            for source, result in zip(sources, results, strict=True)
        )


def decode_video(
    source: dict[str, Any],
    *,
    sampler: str,
    max_frames: int,
    preprocessing: Preprocessing,
    views: Views | None = None,
    most_pixels: int = MOST_PIXELS,
    described: bool = True,
) -> DecodedVideo:
    """Decode and shrink one video; failures are returned with a reason, not raised.

    Args:
        source: row of the cache's table.
        sampler: name of the sampler.
        max_frames: maximum number of frames.
        preprocessing: how each frame is shrunk as soon as it is decoded.
        views: augmented views to draw.
        most_pixels: of a frame.
        described: whether the digest and the thumbnail are made, too.
    """
    started = time.perf_counter()
    thumbnail = b""
    drawn: dict[int, Frames] = {}  # (R, 1, height, width, 3) by number of the frame

    def shrink(number: int, count: int, frame: Frames) -> Frames:
        nonlocal thumbnail
        if described and number == count // 2:
            thumbnail = thumbnail_of(frame)
        if views is not None:
            drawn[number] = _views(frame[None], views, source["video_id"], preprocessing)
        shrunk: Frames = preprocessing.shrink(frame[None])[0]  # (height, width, 3)
        return shrunk

    try:
        clip = _decode(
            source, sampler=sampler, max_frames=max_frames, most_pixels=most_pixels, each=shrink
        )
        if clip.switch_reason and _memory_is_short():
            raise MemoryError  # else the decoder, and so the features, depended on it
        return DecodedVideo(
            frames=clip.frames,
            times=clip.times,
            decoder=clip.decoder,
            switch_reason=clip.switch_reason,
            digest=file_digest(Path(source["path"])) if described else None,
            thumbnail=thumbnail or None,
            views=np.concatenate([drawn[i] for i in sorted(drawn)], axis=1) if drawn else None,
            seconds=time.perf_counter() - started,
        )
    except MemoryError:
        reason = f"{source['path']}: a decode worker has too little memory for its frames"
        return replace(_failed(reason, time.perf_counter() - started), out_of_memory=True)
    except DecodeError as err:
        reason = str(err)
    except OSError as err:
        reason = f"{source['path']} cannot be read: {err.strerror or err}"
    except GareCacheError:
        raise  # of the settings, not of this file
    except Exception as err:  # one odd file must not end an extraction
        reason = f"{source['path']} cannot be decoded: {type(err).__name__}: {err}"
    failed = _failed(reason, seconds=time.perf_counter() - started)
    return replace(failed, out_of_memory=_memory_is_short())


def _memory_is_short() -> bool:
    """Return whether a fault may come from this process's limit; libraries name many causes."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return limit != resource.RLIM_INFINITY and near_limit(resource.RUSAGE_SELF, limit)


def lost_video(path: str, lost: LostJob) -> DecodedVideo:
    """Return a video whose worker took too long or died as a failed one."""
    return replace(_failed(f"{path}: {lost.reason}"), out_of_memory=lost.out_of_memory)


def _failed(reason: str, seconds: float = 0.0) -> DecodedVideo:
    reason = " ".join(reason.splitlines())  # messages have one line each
    return DecodedVideo(None, np.empty(0, np.float32), reason=reason, seconds=seconds)


def _decode(source: dict[str, Any], **options: Any) -> DecodedClip:
    path = Path(source["path"])
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) != (source["size_bytes"], source["mtime_ns"]):
        raise DecodeError(f"{path} has changed since it was listed; run `gare-cache prepare`")
    return decode_clip(
        path,
        start_seconds=source["start_seconds"],
        end_seconds=source["end_seconds"],
        **options,
    )


def _views(frames: Frames, views: Views, video_id: str, preprocessing: Preprocessing) -> Frames:
    with torch_memory_errors():
        return draw_views(frames, views, video_id=video_id, size=preprocessing.size)


@contextmanager
def torch_memory_errors() -> Iterator[None]:
    """Turn what torch raises on the CPU for lack of memory into ``MemoryError``."""
    try:
        yield
    except RuntimeError as err:
        if "memory" in str(err):
            raise MemoryError from err
        raise


def thumbnail_of(frame: npt.NDArray[np.uint8]) -> bytes:
    """Return a JPEG of at most 128 x 128 pixels of a frame (H, W, 3)."""
    image = Image.fromarray(frame)
    image.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()
