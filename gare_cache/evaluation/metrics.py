"""Ranks, recall at K and median and mean rank, aware of ties, in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gare_cache.errors import ConfigError, GareCacheError, unknown_name

DIRECTIONS = ("t2v", "v2t")
RECALL_AT = (1, 5, 10, 50)
RSUM_TERMS = ("R@1", "R@5", "R@10")
# How the captions of a video are ranked when the video is the query.
V2T_CONVENTIONS = ("best_caption_of_all", "best_caption_group")

Scores = npt.NDArray[np.floating]


class NonFiniteScores(GareCacheError, ValueError):
    """A similarity matrix holds NaN or infinity."""


@dataclass(frozen=True)
class QueryRanks:
    """Rank of each query's best true item, with ties kept apart.

    Attributes:
        ahead: (Q,) number of false items scored higher.
        ties: (Q,) number of false items scored exactly as high.
    """

    ahead: npt.NDArray[np.int64]
    ties: npt.NDArray[np.int64]

    @property
    def expected(self) -> npt.NDArray[np.float64]:
        """(Q,) mean rank over all orders of the tied items; 1 is best."""
        return self.ahead + self.ties / 2 + 1

    def hits(self, k: int) -> npt.NDArray[np.float64]:
        """(Q,) probability of a rank of at most ``k`` when ties are broken at random."""
        return np.clip((k - self.ahead) / (self.ties + 1), 0.0, 1.0)


def rank_queries(scores: Scores, is_true: npt.NDArray[np.bool_]) -> QueryRanks:
    """Rank each query's best true item among the items that are not true for it.

    With scores ``[[.9, .5], [.7, .7]]`` and the diagonal true, query 0 has 0 items ahead and no
    tie, query 1 has 0 ahead and 1 tie: an expected rank of 1.5.

    Args:
        scores: (Q, G) higher is better.
        is_true: (Q, G) True where the item answers the query; at least one per row.

    Raises:
        NonFiniteScores: with the number of rows that hold NaN or infinity.
    """
    check_finite(scores)
    best = np.where(is_true, scores, -np.inf).max(axis=1, keepdims=True)  # (Q, 1)
    false = ~is_true
    return QueryRanks(
        ahead=((scores > best) & false).sum(axis=1),  # (Q,)
        ties=((scores == best) & false).sum(axis=1),  # (Q,)
    )


def text_to_video(similarity: Scores, video_of_text: npt.NDArray[np.int64]) -> QueryRanks:
    """Rank each caption's video: every caption is a query.

    Args:
        similarity: (T, V), texts are rows.
        video_of_text: (T,) column of each text's video.
    """
    return rank_queries(similarity, _is_true(similarity, video_of_text))


def video_to_text(
    similarity: Scores, video_of_text: npt.NDArray[np.int64], *, convention: str
) -> QueryRanks:
    """Rank each video's captions: every video that has a caption is a query.

    ``best_caption_of_all`` ranks the best of a video's captions among the captions of other videos;
    ``best_caption_group`` ranks the video's captions as one item, scored by their best, among the
    groups of the other videos (CLIP4Clip). Without ties, R@1 is the same under both.

    Args:
        similarity: (T, V), texts are rows.
        video_of_text: (T,) column of each text's video.
        convention: one of ``V2T_CONVENTIONS``.
    """
    if convention not in V2T_CONVENTIONS:
        raise ConfigError(unknown_name("v2t convention", convention, V2T_CONVENTIONS))
    videos = np.unique(video_of_text)
    if convention == "best_caption_of_all":
        is_true = _is_true(similarity, video_of_text)
        return rank_queries(similarity.T[videos], is_true.T[videos])  # (Q, T)
    check_finite(similarity)
    order = np.argsort(video_of_text, kind="stable")
    starts = np.searchsorted(video_of_text[order], videos)
    groups = np.maximum.reduceat(similarity[order], starts, axis=0)  # (Q, V), best of each group
    return rank_queries(groups.T[videos], np.eye(len(videos), dtype=bool))  # (Q, Q)


def both_directions(
    similarity: Scores, video_of_text: npt.NDArray[np.int64], *, convention: str
) -> dict[str, QueryRanks]:
    """Return ``text_to_video`` under ``t2v`` and ``video_to_text`` under ``v2t``."""
    return {
        "t2v": text_to_video(similarity, video_of_text),
        "v2t": video_to_text(similarity, video_of_text, convention=convention),
    }


def retrieval_metrics(ranks: QueryRanks) -> dict[str, float]:
    """Return R@1, 5, 10 and 50 in percent, and the median and mean of the expected ranks."""
    expected = ranks.expected
    recalls = {f"R@{k}": 100 * float(ranks.hits(k).mean()) for k in RECALL_AT}
    return {**recalls, "MdR": float(np.median(expected)), "MnR": float(expected.mean())}


def known_recalls(metrics: Mapping[str, float], num_items: int) -> dict[str, float]:
    """Return metrics with NaN for R@K where K reaches the size of the gallery.

    There every ranked query hits, whatever the method.

    Args:
        metrics: as ``retrieval_metrics`` returns them.
        num_items: size of the gallery.
    """
    trivial = {f"R@{k}" for k in RECALL_AT if k >= num_items}
    return {name: math.nan if name in trivial else value for name, value in metrics.items()}


def rsum(metrics: Mapping[str, Mapping[str, float]]) -> float:
    """Add R@1, R@5 and R@10 of both directions: six terms.

    Args:
        metrics: ``{direction: what retrieval_metrics returns}`` for t2v and v2t.
    """
    return sum(by_name[term] for by_name in metrics.values() for term in RSUM_TERMS)


def check_finite(scores: Scores) -> None:
    """Raise an error if scores hold NaN or infinity.

    Raises:
        NonFiniteScores: with the number of affected rows and the first of them (from 0).
    """
    bad = np.flatnonzero((~np.isfinite(scores)).any(axis=1))
    if bad.size:
        raise NonFiniteScores(
            f"{bad.size} of {len(scores):,} rows of the similarity hold NaN or "
            "infinity, the first "
            f"is row {bad[0]}; such rows cannot be ranked"
        )


def _is_true(similarity: Scores, video_of_text: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    is_true = np.zeros(similarity.shape, dtype=bool)  # (T, V)
    is_true[np.arange(len(video_of_text)), video_of_text] = True
    return is_true
