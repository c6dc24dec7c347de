"""Bootstrap over test videos: resamples of a difference, and the interval of a recall."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

_BLOCK = 500
_ROUNDING = 1e-9  # points
_KEPT = 2**26  # counts below 2^16 that are kept between recalls, 128 MiB


def recall_interval(
    hits: Values, video_of_query: npt.NDArray[np.int64], *, resamples: int, seed: int
) -> tuple[float, float]:
    """Bootstrap a 95 % percentile interval of a recall, resampling videos with all their queries.

    Captions of one video hit and miss together, so resampling captions would give intervals that
    are too narrow.

    Args:
        hits: (Q,) 1 for a hit, 0 for a miss, between for a tie.
        video_of_query: (Q,) the video each query belongs to.
        resamples: number of resamples.
        seed: random seed of the resampling.

    Returns:
        (low, high) in percent; NaN where they cannot be estimated, because all resamples are equal.
    """
    draws = paired_bootstrap(hits[:, None], video_of_query, resamples=resamples, seed=seed)[:, 0]
    if all_equal(draws):
        return math.nan, math.nan
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def all_equal(draws: Values) -> bool:
    """Return whether resamples differ by rounding alone, so that they tell no spread."""
    return float(np.ptp(draws)) < _ROUNDING


def paired_bootstrap(
    differences: Values, video_of_query: npt.NDArray[np.int64], *, resamples: int, seed: int
) -> Values:
    """Bootstrap mean differences over videos, with the same resamples for every criterion.

    Args:
        differences: (Q, M) hits of one run minus those of another, by M criteria.
        video_of_query: (Q,) the video each query belongs to.
        resamples: number of resamples R.
        seed: random seed of the resampling.

    Returns:
        (R, M) mean difference of each resample, in points.
    """
    columns = [_per_video(column, video_of_query) for column in differences.T]
    totals = np.stack([total for total, _ in columns], axis=1)  # (V, M)
    counts = columns[0][1]
    means = [
        100 * (weights @ totals) / (weights @ counts)[:, None]  # (block, M)
        for weights in _resampled_weights(len(counts), resamples, seed)
    ]
    return np.concatenate(means)  # (R, M)


def _per_video(hits: Values, video_of_query: npt.NDArray[np.int64]) -> tuple[Values, Values]:
    _, video = np.unique(video_of_query, return_inverse=True)
    counts = np.bincount(video).astype(np.float64)  # (V,)
    totals = np.bincount(video, weights=hits).astype(np.float64)  # (V,)
    return totals, counts


def _resampled_weights(num_videos: int, resamples: int, seed: int) -> Iterator[Values]:
    small = num_videos * resamples <= _KEPT
    blocks = (_kept_draws if small else _draws)(num_videos, resamples, seed)
    return (block.astype(np.float64) for block in blocks)


def _draws(num_videos: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    equal = np.full(num_videos, 1 / num_videos)
    for start in range(0, resamples, _BLOCK):
        yield generator.multinomial(num_videos, equal, size=min(_BLOCK, resamples - start))


@functools.lru_cache(maxsize=2)
def _kept_draws(num_videos: int, resamples: int, seed: int) -> list[npt.NDArray[np.uint16]]:
    """Keep the draws, the same for every recall of a table: drawing them is all the work."""
    return [block.astype(np.uint16) for block in _draws(num_videos, resamples, seed)]
