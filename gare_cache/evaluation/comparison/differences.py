"""Difference of two methods with interval and p: over videos, and over videos and seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from gare_cache.evaluation.comparison.student_t import critical_value, two_sided_p
from gare_cache.evaluation.significance import Values, all_equal, paired_bootstrap

LEVEL = 0.05
POWER = 0.8
_NORMAL = NormalDist()
_ROUNDING = 1e-18  # square points
_CANCELLED = 1e-9  # of what was added and subtracted


@dataclass(frozen=True)
class Difference:
    """A difference of two recalls, in points.

    Attributes:
        points: first minus second.
        low: lower end of the 95 % interval; NaN where it cannot be estimated: every video has the
            same difference, or there are too few videos or resamples.
        high: its upper end; NaN as ``low``.
        p_value: two-sided p of the hypothesis of no difference, at most 0.05 exactly where the
            interval excludes 0; 1 where the interval cannot be estimated.
        standard_error: in points; NaN as ``low``.
        degrees_of_freedom: of the standard error.
        queries: number of queries that both methods answer.
        p_holm: ``p_value`` adjusted for its family of comparisons, see ``adjusted``; equal to it
            for a single comparison.
    """

    points: float
    low: float
    high: float
    p_value: float
    standard_error: float
    degrees_of_freedom: float
    queries: int
    p_holm: float

    @property
    def estimable(self) -> bool:
        """Whether the data tell how much the difference varies."""
        return not math.isnan(self.low)

    @property
    def distinguishable(self) -> bool:
        """Whether the adjusted p is at most 0.05: the one rule for "not distinguishable"."""
        return self.p_holm <= LEVEL

    @property
    def half_width(self) -> float:
        """The smallest observed difference whose interval would exclude 0, in points."""
        return critical_value(LEVEL, self.degrees_of_freedom) * self.standard_error

    @property
    def detectable(self) -> float:
        """The true difference that would be detected with a power of 80 %, in points."""
        beyond = critical_value(2 * (1 - POWER), self.degrees_of_freedom)
        return self.half_width + beyond * self.standard_error


def compare_runs(
    hits: Values,
    other_hits: Values,
    video_of_query: npt.NDArray[np.int64],
    *,
    resamples: int,
    seed: int,
) -> list[Difference]:
    """Compare two runs on the same queries by a paired bootstrap over videos.

    The result says whether these two runs differ on videos of this kind. One run does not show how
    much a method varies with its seed, so the interval does not cover that. Resampling V videos
    underestimates the variance by (V - 1) / V and ignores the t distribution; so the percentiles
    are those at the normal level of sqrt(V / (V - 1)) t, not 2.5 and 97.5 ("expanded percentile
    interval", Hesterberg 2015). With 1,000 videos they are 2.48 and 97.52, with 20 they are 1.6
    and 98.4. The ends are order statistics, of the place at which p passes 0.05, so that interval
    and p never disagree.

    Args:
        hits: (Q, M) of the first run, by M criteria (for example at K = 1, 5, 10).
        other_hits: (Q, M) of the second run, in the same order.
        video_of_query: (Q,) the video each query belongs to.
        resamples: number of resamples.
        seed: random seed of the resampling.

    Returns:
        One difference per criterion; p is the smallest level whose interval excludes 0.
    """
    differences = hits - other_hits
    points = [100 * float(column.mean()) for column in differences.T]
    num_videos = len(np.unique(video_of_query))
    if num_videos < 2:
        return [_not_estimable(of, num_videos - 1, len(differences)) for of in points]
    draws = paired_bootstrap(differences, video_of_query, resamples=resamples, seed=seed)  # (R, M)
    expansion = math.sqrt(num_videos / (num_videos - 1))
    tail = _NORMAL.cdf(-expansion * critical_value(LEVEL, num_videos - 1))
    outside = math.floor(tail * (resamples + 1)) - 1  # resamples beyond an end of the interval
    return [
        _not_estimable(of, num_videos - 1, len(differences))
        if outside < 0 or all_equal(column)
        else _of_resamples(of, column, outside, expansion, num_videos - 1, len(differences))
        for of, column in zip(points, draws.T, strict=True)
    ]


def compare_recalls(
    hits: Values,
    other_hits: Values,
    video_of_query: npt.NDArray[np.int64],
    *,
    resamples: int,
    seed: int,
) -> Difference:
    """Compare two runs by one criterion; ``compare_runs`` with hits (Q,)."""
    (difference,) = compare_runs(
        hits[:, None], other_hits[:, None], video_of_query, resamples=resamples, seed=seed
    )
    return difference


def _of_resamples(
    points: float, draws: Values, outside: int, expansion: float, freedom: int, queries: int
) -> Difference:
    ordered = np.sort(draws)
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    rarity = min(0.5, (beyond + 1) / (len(draws) + 1))
    p_value = two_sided_p(_NORMAL.inv_cdf(rarity) / expansion, freedom)
    return Difference(
        points=points,
        low=float(ordered[outside]),
        high=float(ordered[-1 - outside]),
        p_value=p_value,
        standard_error=expansion * float(draws.std(ddof=1)),
        degrees_of_freedom=freedom,
        queries=queries,
        p_holm=p_value,
    )


def _not_estimable(points: float, freedom: float, queries: int) -> Difference:
    return Difference(points, math.nan, math.nan, 1.0, math.nan, freedom, queries, p_holm=1.0)


def compare_seeds(
    hits: Values, other_hits: Values, video_of_query: npt.NDArray[np.int64]
) -> Difference:
    """Compare two methods on the same queries, each trained with several seeds.

    Videos and seeds are two crossed samples, as in studies in which several readers read the same
    cases (Obuchowski & Rockette 1995; Hillis 2007). The variance of the difference of the means is

        T_videos + T_seeds - T_both,   at least T_videos:

    T_videos = s^2 / V of the videos' differences, averaged over seeds; T_seeds = sum over the two
    methods of s^2 / S of their seeds' recalls; T_both = sum of s^2 / (S V) of the seed-by-video
    residuals, which both of the former contain. Student's t with Satterthwaite's degrees of
    freedom. Resampling S seeds with replacement would give only (S - 1) / S of T_seeds, and ignore
    how poorly S values estimate it; docs/compare.md has the measured error rates.

    Where videos have unequal numbers of queries, a video counts by its linearised share of the
    recall. For a method with one run, the interval does not cover the variation with its seed.

    Args:
        hits: (S, Q) of the first method's S seeds.
        other_hits: (S', Q) of the second method's.
        video_of_query: (Q,) the video each query belongs to; at least 2 videos.
    """
    first, second = (_method(h, video_of_query) for h in (hits, other_hits))
    points = first.recall - second.recall
    num_videos = len(first.shares)
    videos = float(np.var(first.shares - second.shares, ddof=1)) / num_videos
    seeds = first.seeds + second.seeds
    variance = max(videos, videos + seeds - first.both - second.both)
    added = videos + seeds + first.both + second.both
    if variance < max(_ROUNDING, _CANCELLED * added):
        return _not_estimable(points, num_videos - 1, hits.shape[1])
    squares = videos**2 / (num_videos - 1) + first.seeds_square + second.seeds_square
    degrees_of_freedom = variance**2 / squares
    error = math.sqrt(variance)
    half = critical_value(LEVEL, degrees_of_freedom) * error
    p_value = two_sided_p(points / error, degrees_of_freedom)
    return Difference(
        points=points,
        low=points - half,
        high=points + half,
        p_value=p_value,
        standard_error=error,
        degrees_of_freedom=degrees_of_freedom,
        queries=hits.shape[1],
        p_holm=p_value,
    )


def mcnemar_exact(won: int, lost: int) -> float:
    """Return the two-sided p of McNemar's exact test (a sign test on the queries that differ).

    Args:
        won: number of queries that only the first run answers correctly.
        lost: number of queries that only the second run answers correctly.
    """
    differing = won + lost
    tail = ways = 1
    for count in range(min(won, lost)):
        ways = ways * (differing - count) // (count + 1)
        tail += ways
    return min(1.0, float(Fraction(2 * tail, 2**differing)))


def adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """Return a family of comparisons with p adjusted for their number (Holm)."""
    p_values = holm([difference.p_value for difference in differences])
    return [
        dataclasses.replace(difference, p_holm=p_holm)
        for difference, p_holm in zip(differences, p_values, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979): i-th smallest times n - i + 1, increasing."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = least
    return adjusted


@dataclass(frozen=True)
class _Method:
    """One method's recall in points, its videos' shares of it, (V,), and its seed variances."""

    recall: float
    shares: Values
    seeds: float
    both: float
    seeds_square: float


def _method(hits: Values, video_of_query: npt.NDArray[np.int64]) -> _Method:
    _, video = np.unique(video_of_query, return_inverse=True)
    counts = np.bincount(video)
    num_seeds, num_videos = len(hits), len(counts)
    totals = np.stack([np.bincount(video, weights=row) for row in hits])  # (S, V)
    recalls = 100 * hits.mean(axis=1)  # (S,)
    # Each video's contribution to its seed's recall, centred on 0.
    shares = (100 * totals - recalls[:, None] * counts) * num_videos / len(video_of_query)  # (S, V)
    mean_share = shares.mean(axis=0)  # (V,)
    recall = float(recalls.mean())
    if num_seeds == 1:
        return _Method(recall, mean_share, 0.0, 0.0, 0.0)
    seeds = float(recalls.var(ddof=1)) / num_seeds
    remaining = float(((shares - mean_share) ** 2).sum()) / ((num_seeds - 1) * (num_videos - 1))
    both = remaining / (num_seeds * num_videos)
    return _Method(recall, mean_share, seeds, both, seeds**2 / (num_seeds - 1))
