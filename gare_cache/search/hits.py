"""What a search returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SearchHit:
    """A video found by a search, and the moment in it.

    Attributes:
        video_id: of the video.
        score: of the query and the video: a cosine for the heads of this package, and the
            weighted mean of cosines for a query of several parts.
        rank: place among the searched videos, 1 is best.
        percentile: share of the searched videos that rank lower, in percent.
        path: its file; None if the features were imported.
        best_time: seconds in the file of the frame that matches best; None without times.
        start: start of the span around it, in seconds.
        end: end of that span.
    """

    video_id: str
    score: float
    rank: int
    percentile: float
    path: Path | None
    best_time: float | None
    start: float | None
    end: float | None


@dataclass(frozen=True)
class SearchResult:
    """The hits of a query, the best first.

    Attributes:
        hits: the best videos.
        searched: number of videos searched.
        reranked: of these, how many the head scored exactly.
        notes: what to know about the result, one sentence each.
    """

    hits: Sequence[SearchHit]
    searched: int
    reranked: int
    notes: Sequence[str] = ()
