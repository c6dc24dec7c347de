"""Pictures of moments: a frame of a video at a time, decoded when it is asked for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gare_cache.extraction.decode import thumbnail_of
from gare_cache.search.gallery import GalleryVideo
from gare_cache.video.decoding import decode_clip

_MOST_KEPT = 2048  # JPEGs of about 4 KiB
_MOST_WAITING = 64
_THREADS = 2
_SECONDS = 3.0
_HALF_STEP = 0.05

_Key = tuple[Path, int, int, int]


class MomentThumbnails:
    """The last pictures that were asked for; few are decoded at a time."""

    def __init__(self, most_pixels: int) -> None:
        """Take videos whose frames have at most ``most_pixels`` pixels."""
        self._most_pixels = most_pixels
        self._kept: OrderedDict[_Key, bytes | None] = OrderedDict()
        self._decoding: dict[_Key, asyncio.Future[bytes | None]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="thumbnail")

    async def picture(self, video: GalleryVideo, seconds: float) -> bytes | None:
        """Return a JPEG of the frame at a time, rounded to 0.1 s and bounded to the clip.

        Args:
            video: of the gallery.
            seconds: in its file.

        Returns:
            None where the frame cannot be decoded, too many wait, or it takes longer than three
            seconds; then it is there the next time.
        """
        if video.path is None:
            return None
        try:
            stat = video.path.stat()
        except OSError:
            return None
        last = seconds if video.end is None else min(seconds, video.end)
        tenths = round(10 * max(last, video.start))
        key = (video.path, stat.st_mtime_ns, stat.st_size, tenths)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._decoding:
            if len(self._decoding) >= _MOST_WAITING:
                return None
            loop = asyncio.get_running_loop()
            asked = (video.path, tenths, self._most_pixels)
            future = loop.run_in_executor(self._threads, _decoded, *asked)
            self._decoding[key] = future
            future.add_done_callback(lambda done: self._keep(key, done))
        done, _ = await asyncio.wait([self._decoding[key]], timeout=_SECONDS)
        return next(iter(done)).result() if done else None

    def close(self) -> None:
        """End the threads, without waiting for a picture that is being decoded."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _keep(self, key: _Key, done: asyncio.Future[bytes | None]) -> None:
        del self._decoding[key]
        if done.cancelled():
            return
        self._kept[key] = done.result()
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)


def _decoded(path: Path, tenths: int, most_pixels: int) -> bytes | None:
    """Return the JPEG; None where no frame can be decoded there, for whatever reason."""
    pictures: list[bytes] = []

    def shrink(number: int, count: int, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        pictures.append(thumbnail_of(frame))
        return frame[:1, :1]

    try:
        decode_clip(
            path,
            sampler="segment_centre",
            max_frames=1,
            start_seconds=max(0.0, tenths / 10 - _HALF_STEP),
            end_seconds=tenths / 10 + _HALF_STEP,
            decoder="pyav",
            most_pixels=most_pixels,
            each=shrink,
        )
    except Exception:  # the file was changed or deleted; the server lives on
        return None
    return pictures[-1]
