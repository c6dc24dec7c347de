"""Samplers: choose the frames of a video, as pure functions of their presentation times.

A frame is on screen from its own timestamp to the next one, the last frame for one mean period.
Videos of constant rate are sampled with the index arithmetic of the published code; others at
target times, where the frame at time t is the last one with a timestamp <= t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gare_cache.errors import ConfigError, DecodeError, unknown_name

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

TIME_TOLERANCE_SECONDS = 1e-6  # containers count in ticks of 1e-5 s and more


@dataclass(frozen=True, eq=False)
class Timeline:
    """Presentation times of a video's frames.

    Attributes:
        times: (N,) float64, seconds, ascending.
        fps: frames per second, > 0.
        constant_rate: True if the frames are evenly spaced at ``fps``.
    """

    times: Floats
    fps: float
    constant_rate: bool

    @property
    def end_seconds(self) -> float:
        """The time at which the last frame leaves the screen."""
        return float(self.times[-1]) + 1.0 / self.fps


Clip = tuple[float, float]
Sampler = Callable[[Timeline, Clip, int], Indices]


def select_frames(
    times: Floats,
    *,
    fps: float,
    constant_rate: bool,
    sampler: str,
    max_frames: int,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Indices:
    """Choose the frames of a video or of a clip of it.

    As in the published code, ``start_seconds > end_seconds`` are swapped and equal bounds mean one
    second; a missing bound is the start or end of the video. The frame on screen at
    ``end_seconds`` belongs to the clip.

    Args:
        times: (N,) float64 presentation times in seconds, ascending, N >= 1.
        fps: frames per second of the video.
        constant_rate: whether the frames are evenly spaced at ``fps``.
        sampler: a name in ``SAMPLERS``.
        max_frames: maximum number of frames, >= 1.
        start_seconds: start of the clip.
        end_seconds: end of the clip.

    Returns:
        (F,) int64 strictly ascending indices into ``times``, 1 <= F <= ``max_frames``. F is smaller
        if the clip has too few frames: no frame is taken twice.

    Raises:
        ConfigError: the sampler is unknown, or a number is out of range.
        DecodeError: no frame of the video lies in the clip.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(unknown_name("sampler", sampler, SAMPLERS))
    if max_frames < 1:
        raise ConfigError(f"max_frames is {max_frames}; it must be at least 1")
    clip = _ordered_clip(start_seconds, end_seconds)
    timeline = Timeline(np.asarray(times, np.float64), fps, constant_rate)
    chosen = SAMPLERS[sampler](timeline, clip, max_frames)
    if len(chosen) == 0:
        raise DecodeError(
            f"the clip from {clip[0]:g} s to {clip[1]:g} s lies outside the video, which shows "
            f"{len(times)} frames from {timeline.times[0]:.3f} s to {timeline.end_seconds:.3f} s"
        )
    return chosen


def _ordered_clip(start_seconds: float | None, end_seconds: float | None) -> Clip:
    start = 0.0 if start_seconds is None else float(start_seconds)
    end = math.inf if end_seconds is None else float(end_seconds)
    if not math.isfinite(start) or math.isnan(end):
        raise ConfigError(
            f"a clip from {start_seconds} s to {end_seconds} s is not a time interval"
        )
    if start > end:
        start, end = end, start
    return (start, end + 1.0) if start == end else (start, end)


def _fps_then_uniform(timeline: Timeline, clip: Clip, max_frames: int) -> Indices:
    """Take one frame per second, then ``max_frames`` of these spread evenly (CLIP4Clip, GARE).

    Stride ``max(1, round(fps))`` with halves to even; of too many candidates, those at
    ``linspace(0, n - 1, max_frames)``, truncated. At a variable rate the candidates are the frames
    at the start of the clip, one second later, and so on.
    """
    if timeline.constant_rate:
        first, last = _index_range(timeline, clip)
        candidates = np.arange(first, last + 1, max(1, round(timeline.fps)), dtype=np.int64)
    else:
        begin, end = _time_range(timeline, clip)
        targets = np.arange(begin, end + TIME_TOLERANCE_SECONDS, 1.0)
        targets = targets[targets < timeline.end_seconds - TIME_TOLERANCE_SECONDS]
        candidates = np.unique(_frames_at(timeline.times, targets))
    if len(candidates) <= max_frames:
        return candidates
    return candidates[np.linspace(0, len(candidates) - 1, max_frames).astype(np.int64)]


def _segment_centre(timeline: Timeline, clip: Clip, max_frames: int) -> Indices:
    """Take the frame in the middle of each of ``max_frames`` equal intervals of the clip."""
    centres = (np.arange(max_frames) + 0.5) / max_frames
    if timeline.constant_rate:
        first, last = _index_range(timeline, clip)
        if first > last:
            return np.empty(0, np.int64)
        return np.unique((first + centres * (last - first + 1)).astype(np.int64))
    begin, end = _time_range(timeline, clip)
    if begin >= end:
        return np.empty(0, np.int64)
    return np.unique(_frames_at(timeline.times, begin + centres * (end - begin)))


def _index_range(timeline: Timeline, clip: Clip) -> tuple[int, int]:
    """Return the first and last index of the clip, both included; first > last if empty."""
    offset = float(timeline.times[0])
    first = max(0, math.floor((clip[0] - offset) * timeline.fps))
    last = len(timeline.times) - 1
    if math.isfinite(clip[1]):
        last = min(last, math.floor((clip[1] - offset) * timeline.fps))
    return first, last


def _time_range(timeline: Timeline, clip: Clip) -> Clip:
    """Return the part of the clip in which frames are shown; begin > end if there is none."""
    return max(clip[0], float(timeline.times[0])), min(clip[1], timeline.end_seconds)


def _frames_at(times: Floats, targets: Floats) -> Indices:
    """Return the last frame with a timestamp <= t for each target time t >= times[0]."""
    return np.searchsorted(times, targets + TIME_TOLERANCE_SECONDS, side="right") - 1


SAMPLERS: dict[str, Sampler] = {
    "fps_then_uniform": _fps_then_uniform,
    "segment_centre": _segment_centre,
}
