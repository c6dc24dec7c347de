"""Bootstrap over test videos: intervals of a recall and of the difference of two."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

_BLOCK = 500


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
        (low, high) in percent.
    """
    return _interval(_resampled(hits, video_of_query, resamples, seed))


def paired_difference(
    hits: Values,
    reference_hits: Values,
    video_of_query: npt.NDArray[np.int64],
    *,
    resamples: int,
    seed: int,
) -> tuple[float, float, float, float]:
    """Bootstrap the difference of two recalls over the same queries, video by video.

    Args:
        hits: (Q,) of the method.
        reference_hits: (Q,) of the reference, in the same order.
        video_of_query: (Q,) the video each query belongs to.
        resamples: number of resamples.
        seed: random seed of the resampling.

    Returns:
        Difference, low and high end of its 95 % percentile interval, in points, and p, the
        smallest level whose percentile interval excludes 0.
    """
    difference = hits - reference_hits
    draws = _resampled(difference, video_of_query, resamples, seed)
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (resamples + 1))
    return 100 * float(difference.mean()), *_interval(draws), p_value


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


def _resampled(
    hits: Values, video_of_query: npt.NDArray[np.int64], resamples: int, seed: int
) -> Values:
    """Return the mean of each resample of the videos, (R,) in percent."""
    totals, counts = _per_video(hits, video_of_query)
    means = [
        100 * (weights @ totals) / (weights @ counts)  # (block,)
        for weights in _resampled_weights(len(totals), resamples, seed)
    ]
    return np.concatenate(means)  # (R,)


def _interval(draws: Values) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _per_video(hits: Values, video_of_query: npt.NDArray[np.int64]) -> tuple[Values, Values]:
    _, video = np.unique(video_of_query, return_inverse=True)
    counts = np.bincount(video).astype(np.float64)  # (V,)
    totals = np.bincount(video, weights=hits).astype(np.float64)  # (V,)
    return totals, counts


def _resampled_weights(num_videos: int, resamples: int, seed: int) -> Iterator[Values]:
    generator = np.random.default_rng(seed)
    equal = np.full(num_videos, 1 / num_videos)
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        yield generator.multinomial(num_videos, equal, size=count).astype(np.float64)
