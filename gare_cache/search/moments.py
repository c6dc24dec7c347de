"""The moment of a video that a query is about: the best frame and the span around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """Seconds in a file: the best frame, and the span around it."""

    best: float
    start: float
    end: float


def find_moment(
    scores: Floats,
    times: Floats,
    *,
    bounds: tuple[float, float | None],
    least: float = 0.0,
    most: float | None = None,
) -> Span | None:
    """Return the span around the best frame in which frames match about as well.

    It holds the neighbouring frames that score at least halfway between the best frame and the
    mean of all frames. A frame stands for the time halfway to its neighbours.

    Args:
        scores: (F,) of the query and each frame.
        times: (F,) seconds of the frames, ascending.
        bounds: start and end of the clip in its file; an end of None is unknown.
        least: shortest span in seconds; a shorter one grows about its middle inside the bounds.
        most: longest span; a longer one is cut about the best frame. None is no limit.

    Returns:
        The span; None for frames without times.
    """
    if np.isnan(times).any() or not len(times):
        return None
    best = int(scores.argmax())
    level = (scores[best] + scores.mean()) / 2
    first = last = best
    while first > 0 and scores[first - 1] >= level:
        first -= 1
    while last < len(scores) - 1 and scores[last + 1] >= level:
        last += 1
    edges = _edges(times.astype(np.float64), bounds)
    start, end = _fitted(edges[first], edges[last + 1], float(times[best]), least, most)
    return Span(float(times[best]), *_inside(start, end, bounds))


def _edges(times: npt.NDArray[np.float64], bounds: tuple[float, float | None]) -> list[float]:
    """Return the F + 1 times between which each frame stands."""
    middles = ((times[1:] + times[:-1]) / 2).tolist()
    half = float(np.diff(times).mean()) / 2 if len(times) > 1 else 0.5  # at one frame a second
    end = bounds[1]
    return [
        max(bounds[0], float(times[0]) - half),
        *middles,
        float(times[-1]) + half if end is None else min(end, float(times[-1]) + half),
    ]


def _fitted(
    start: float, end: float, best: float, least: float, most: float | None
) -> tuple[float, float]:
    if most is not None and end - start > most:
        start = min(max(start, best - most / 2), end - most)
        end = start + most
    if end - start < least:
        middle = (start + end) / 2
        start, end = middle - least / 2, middle + least / 2
    return start, end


def _inside(start: float, end: float, bounds: tuple[float, float | None]) -> tuple[float, float]:
    """Shift a span into its bounds, and cut it where they are shorter."""
    low, high = bounds
    if start < low:
        start, end = low, end + low - start
    if high is not None and end > high:
        start, end = max(low, start - (end - high)), high
    return start, end


def check_seconds(least: float, most: float | None) -> list[str]:
    """Return what is wrong with the limits of a span, one sentence each."""
    faults: Sequence[tuple[bool, str]] = (
        (least < 0, f"the shortest span is {least:g} s; it cannot be negative"),
        (most is not None and most <= 0, f"the longest span is {most} s; it must be positive"),
        (
            most is not None and 0 < most < least,
            f"the longest span, {most} s, is shorter than the shortest, {least:g} s",
        ),
    )
    return [fault for wrong, fault in faults if wrong]
