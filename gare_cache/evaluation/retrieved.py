"""Top items of each query, and hubness: how often an item is retrieved."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gare_cache.evaluation.metrics import Scores

Items = npt.NDArray[np.int64]

_LAST = np.int64(2**32 - 1)  # the largest item
_MAGNITUDE = np.int64(2**31 - 1)  # all bits of a float32 but its sign


class TopK:
    """The K best items of each query, of scores that come block by block.

    Score and item make one integer, which is larger for a better score and, among equal scores, for
    an earlier item. The K largest integers are therefore the same in whatever blocks they come.
    """

    def __init__(self, count: int, queries: int) -> None:
        """Keep at most ``count`` items of each of some queries."""
        self._count = count
        self._keys: Items = np.empty((queries, 0), np.int64)  # (Q, K), in no order

    def add(self, scores: npt.NDArray[np.float32], items: Items) -> None:
        """Add scores (Q, B) of items (B,), each a number from 0 to below 2^32 that comes once."""
        keys = np.concatenate([self._keys, _keys(scores, items)], axis=1)
        if keys.shape[1] > self._count:
            keys = np.partition(keys, -self._count, axis=1)[:, -self._count :].copy()
        self._keys = keys

    def best(self) -> tuple[npt.NDArray[np.float32], Items]:
        """Return scores and items, both (Q, K), the best first, equal scores by item.

        K is smaller than asked for where fewer items came.
        """
        keys = np.sort(self._keys, axis=1)[:, ::-1]
        bits = keys >> 32
        bits = np.where(bits < 0, bits ^ _MAGNITUDE, bits).astype(np.int32)
        return bits.view(np.float32), _LAST - (keys & _LAST)


def _keys(scores: npt.NDArray[np.float32], items: Items) -> Items:
    bits = (scores + np.float32(0)).view(np.int32).astype(np.int64)  # (Q, B), of -0 as of 0
    bits ^= (bits >> 63) & _MAGNITUDE  # below 0 the magnitude counts the other way
    bits <<= 32
    bits |= _LAST - items
    return bits


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
