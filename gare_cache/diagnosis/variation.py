"""Variance of the increments over all pairs of a split, and scores without them.

The increments are computed in blocks of texts and videos; no (T, V, D) tensor of a split is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gare_cache.data.split import FeatureSplit
from gare_cache.evaluation.increment import require_delta
from gare_cache.evaluation.retrieved import Items
from gare_cache.evaluation.similarity import Similarity
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.heads.scoring import blocks, pair_cosine

# Size of one (T, V, D) tensor of a block; computing it takes several.
_BLOCK_BYTES = 16 * 2**20
# Videos pass the aggregator once per block of texts, so a block has few videos and many texts.
_VIDEOS_AT_ONCE = 8


@dataclass(frozen=True)
class IncrementMoments:
    """Moments of Delta_ij over all T texts and V videos of a split.

    Attributes:
        video_means: (V, D) mean over the texts.
        text_means: (T, D) mean over the videos.
        mean_square: mean of |Delta_ij|^2.
        mean_length: mean of |Delta_ij|.
    """

    video_means: Tensor
    text_means: Tensor
    mean_square: float
    mean_length: float


@dataclass(frozen=True)
class StreamedPairs:
    """Result of one pass over all pairs of a split.

    Attributes:
        moments: of the increments.
        corrected: (T, V) cosines of the head, from the dense vectors.
        plain: (T, V) cosines with Delta = 0.
    """

    moments: IncrementMoments
    corrected: Similarity
    plain: Similarity


@torch.no_grad()
def stream_pairs(head: RetrievalHead, split: FeatureSplit) -> StreamedPairs:
    """Compute moments of the increments and cosines of all pairs of a split in one pass.

    Args:
        head: with an increment, in evaluation mode, on the device of the split.
        split: T texts, V videos.
    """
    num_texts, num_videos = len(split.text), len(split.frames)
    corrected, plain = (torch.zeros(num_texts, num_videos) for _ in range(2))
    dim = split.text.shape[1]
    video_sums = torch.zeros(num_videos, dim, dtype=torch.float64)
    text_sums = torch.zeros(num_texts, dim, dtype=torch.float64)
    squares = lengths = 0.0
    for rows, columns, text, video, delta in _pair_blocks(head, split):
        corrected[rows, columns] = _cosines(head.side, text, video, delta).cpu()
        plain[rows, columns] = _cosines(head.side, text, video, None).cpu()
        exact = delta.cpu().double()
        video_sums[columns] += exact.sum(dim=0)  # (V, D)
        text_sums[rows] += exact.sum(dim=1)  # (T, D)
        square = exact.square().sum(dim=-1)  # (T, V)
        squares += float(square.sum())
        lengths += float(square.sqrt().sum())
    moments = IncrementMoments(
        video_means=video_sums / num_texts,
        text_means=text_sums / num_videos,
        mean_square=squares / (num_texts * num_videos),
        mean_length=lengths / (num_texts * num_videos),
    )
    return StreamedPairs(moments, corrected.numpy(), plain.numpy())


@torch.no_grad()
def score_with_video_means(
    head: RetrievalHead, split: FeatureSplit, video_means: Tensor
) -> Similarity:
    """Score with Delta_ij replaced by its mean over the texts: one increment per video.

    Args:
        head: with an increment, in evaluation mode, on the device of the split.
        split: T texts, V videos.
        video_means: (V, D).

    Returns:
        (T, V) cosines.
    """
    scores = torch.zeros(len(split.text), len(split.frames))
    for rows, columns, text, video, delta in _pair_blocks(head, split):
        mean = video_means[columns].to(delta)[None]  # (1, V, D)
        scores[rows, columns] = _cosines(head.side, text, video, mean).cpu()
    return scores.numpy()


def variance_shares(moments: IncrementMoments) -> dict[str, float]:
    """Split the variance of the increments, the mean squared distance from their mean.

    Returns:
        ``total``: the variance; and shares of it: ``within videos``: over the texts at fixed
        video, the part that varies with the text; ``between videos``: 1 minus this, between the
        means of the videos; ``between texts``: between the means of the texts; ``interaction``:
        the rest, which depends on the pair. Shares are NaN if all increments are equal.
    """
    centre = moments.video_means.mean(dim=0).square().sum()
    total = moments.mean_square - float(centre)
    between_videos = float(moments.video_means.square().sum(dim=1).mean() - centre)
    between_texts = float(moments.text_means.square().sum(dim=1).mean() - centre)
    # Rounding of float32 increments leaves this much where the variance is zero.
    if total <= 1e-12 * moments.mean_square:
        videos = texts = float("nan")
    else:
        videos, texts = between_videos / total, between_texts / total
    return {
        "total": total,
        "within videos": 1 - videos,
        "between videos": videos,
        "between texts": texts,
        "interaction": 1 - videos - texts,
    }


def share_inside(items: Items, candidates: Items) -> npt.NDArray[np.float64]:
    """Return for each query the share of its items that are among its candidates, (Q,).

    For items ``[[3, 1]]`` and candidates ``[[0, 1, 2]]``: ``[0.5]``.

    Args:
        items: (Q, n).
        candidates: (Q, K).
    """
    shares: npt.NDArray[np.float64] = np.array(
        [np.isin(row, among).mean() for row, among in zip(items, candidates, strict=True)]
    )
    return shares


def _pair_blocks(
    head: RetrievalHead, split: FeatureSplit
) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
    """Yield rows, columns, text (A, D), video (A or 1, B, D) and increments (A, B, D)."""
    places = torch.arange(len(split.text), device=split.text.device)
    row_bytes = _VIDEOS_AT_ONCE * split.text.shape[1] * split.text.element_size()
    for columns in blocks(len(split.frames), _VIDEOS_AT_ONCE):
        for rows in blocks(len(split.text), max(1, _BLOCK_BYTES // row_bytes)):
            vectors = head.vectors(
                split.text[rows],
                split.frames[columns],
                split.mask[columns],
                split.words_of(places[rows]),
            )
            yield rows, columns, vectors.text, vectors.video, require_delta(vectors)


def _cosines(side: str, text: Tensor, video: Tensor, delta: Tensor | None) -> Tensor:
    """Return the cosines of pairs with an increment (A or 1, B, D) on its side, or without."""
    texts = text[:, None]  # (A, 1, D)
    if delta is None:
        return pair_cosine(texts, video)
    return (
        pair_cosine(texts + delta, video) if side == "text" else pair_cosine(texts, video + delta)
    )
