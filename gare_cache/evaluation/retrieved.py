"""Top items of each query, and hubness: how often an item is retrieved."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gare_cache.evaluation.metrics import Scores

Items = npt.NDArray[np.int64]


def top_videos(similarity: Scores, k: int) -> Items:
    """Return the k best videos of each text, best first; ties in the order of the videos.

    Args:
        similarity: (T, V), texts are rows.
        k: items per query; at most V are returned.

    Returns:
        (T, min(k, V)) columns.
    """
    return _top(similarity, k)


def top_texts(
    similarity: Scores, video_of_text: npt.NDArray[np.int64], k: int, *, convention: str
) -> Items:
    """Return the k best texts of each video that has a text, best first.

    Under ``best_caption_group`` an item is a video's group of texts, represented by its best, so
    that places agree with the ranks of that convention.

    Args:
        similarity: (T, V), texts are rows.
        video_of_text: (T,) column of each text's video.
        k: items per query.
        convention: one of ``metrics.V2T_CONVENTIONS``.

    Returns:
        (Q, min(k, items)) rows of the similarity; queries are ``np.unique(video_of_text)``.
    """
    videos = np.unique(video_of_text)
    if convention == "best_caption_of_all":
        return _top(similarity.T[videos], k)
    top = []
    for video in videos:
        order = np.argsort(-similarity[:, video], kind="stable")  # (T,)
        _, first = np.unique(video_of_text[order], return_index=True)
        top.append(order[np.sort(first)[:k]])
    return np.stack(top)  # (Q, k)


def occurrences(retrieved: Items, num_items: int, k: int) -> npt.NDArray[np.int64]:
    """Count the queries that have an item among their first k: the k-occurrence N_k.

    For ``[[0, 1], [0, 2]]`` and 4 items N_1 is [2, 0, 0, 0] and N_2 is [2, 1, 1, 0].

    Args:
        retrieved: (Q, n) items, best first.
        num_items: size of the gallery.
        k: how many places count.
    """
    return np.bincount(retrieved[:, :k].ravel(), minlength=num_items)  # (G,)


def skewness(counts: npt.NDArray[np.int64]) -> float:
    """Return the skewness E[(N - mean)^3] / sd^3 of the counts; 0 where all are equal.

    The usual measure of hubness (Radovanovic et al., JMLR 2010): above 1 a few items are retrieved
    far more often than most.
    """
    centred = counts - counts.mean()
    deviation = float(np.sqrt((centred**2).mean()))
    return float((centred**3).mean()) / deviation**3 if deviation > 0 else 0.0


def _top(scores: Scores, k: int) -> Items:
    rows = [np.argsort(-row, kind="stable")[:k] for row in scores]
    return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.int64)
