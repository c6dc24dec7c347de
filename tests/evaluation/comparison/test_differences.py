import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from gare_cache.evaluation.comparison.differences import (
    compare_recalls,
    compare_runs,
    compare_seeds,
    holm,
    mcnemar_exact,
)
from gare_cache.evaluation.significance import recall_interval

Values = npt.NDArray[np.float64]


def test_mcnemar_against_scipy_and_by_hand() -> None:
    assert mcnemar_exact(5, 0) == 2 / 32
    assert mcnemar_exact(0, 0) == mcnemar_exact(4, 4) == 1
    for won, lost in ((1, 0), (3, 9), (40, 61), (700, 801)):
        expected = stats.binomtest(won, won + lost).pvalue
        assert mcnemar_exact(won, lost) == pytest.approx(expected)
        assert mcnemar_exact(lost, won) == mcnemar_exact(won, lost)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]


def test_single_runs_agree_with_scipys_bootstrap_and_permutation_test() -> None:
    generator = np.random.default_rng(0)
    hits, other = (generator.random((2, 300, 1)) < [[[0.5]], [[0.41]]]).astype(float)
    difference = (hits - other)[:, 0]
    (found,) = compare_runs(hits, other, np.arange(300), resamples=10_000, seed=0)
    theirs = stats.bootstrap((difference,), np.mean, n_resamples=10_000, method="percentile", rng=1)
    assert found.points == pytest.approx(100 * difference.mean())
    assert found.low == pytest.approx(100 * theirs.confidence_interval.low, abs=0.35)
    assert found.high == pytest.approx(100 * theirs.confidence_interval.high, abs=0.35)
    assert found.standard_error == pytest.approx(100 * theirs.standard_error, rel=0.03)
    flips = stats.permutation_test(
        (hits[:, 0], other[:, 0]),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=3000,
        rng=2,
    )
    assert found.p_value == pytest.approx(flips.pvalue, abs=0.015)


def test_criteria_are_compared_apart_and_a_run_equals_itself() -> None:
    generator = np.random.default_rng(1)
    video = generator.integers(0, 60, 200)
    hits, other = (generator.random((2, 200, 2)) < 0.5).astype(float)
    other[:, 1] = hits[:, 1]
    both = compare_runs(hits, other, video, resamples=500, seed=0)
    alone = compare_runs(hits[:, :1], other[:, :1], video, resamples=500, seed=0)
    assert both[0] == alone[0]
    # What is the same for every video has no interval, not [+0.0, +0.0].
    assert (both[1].points, both[1].p_value, both[1].estimable) == (0, 1, False)
    assert np.isnan([both[1].low, both[1].high, both[1].half_width, both[1].detectable]).all()


def test_the_difference_is_paired() -> None:
    generator = np.random.default_rng(0)
    reference = (generator.random(500) < 0.5).astype(float)
    better = reference.copy()
    better[np.flatnonzero(reference == 0)[:25]] = 1
    found = compare_recalls(better, reference, np.arange(500), resamples=2000, seed=0)
    assert found.points == pytest.approx(5)
    assert 2.5 < found.low < 5 < found.high < 7.5  # unpaired it would be some 12 points wide
    mirrored = compare_recalls(reference, better, np.arange(500), resamples=2000, seed=0)
    assert (mirrored.points, mirrored.low) == pytest.approx((-found.points, -found.high))
    assert mirrored.p_value == found.p_value < 0.002


@pytest.mark.parametrize(
    ("num_videos", "resamples", "gain"), [(20, 50, 1.0), (1, 50, 0.5), (40, 30, 0.0)]
)
def test_what_cannot_be_estimated_is_not_distinguishable(
    num_videos: int, resamples: int, gain: float
) -> None:
    # All videos alike, one video, and too few resamples for an interval of 95 %.
    hits = np.full(num_videos, gain)
    if not gain:
        hits[::3] = 1
    found = compare_recalls(
        hits, np.zeros(num_videos), np.arange(num_videos), resamples=resamples, seed=0
    )
    assert not found.estimable
    assert (found.p_value, found.distinguishable) == (1, False)


def test_the_interval_leaves_out_zero_where_p_is_below_the_level() -> None:
    generator = np.random.default_rng(2)
    seen = set()
    for gain in np.linspace(0, 0.25, 40):
        hits, other = (generator.random((2, 80, 1)) < [[[0.4 + gain]], [[0.4]]]).astype(float)
        (found,) = compare_runs(hits, other, np.arange(80), resamples=2000, seed=0)
        assert (found.p_value <= 0.05) == (found.low > 0 or found.high < 0)
        seen.add(found.p_value <= 0.05)
    assert seen == {True, False}


def test_interval_and_p_never_disagree() -> None:
    # A percentile interval beside a p from the same draws disagreed in 1 of 600 comparisons.
    generator = np.random.default_rng(8)
    near = 0
    for trial in range(600):
        num_videos = int(generator.integers(10, 60))
        hits, other = (generator.random((2, num_videos)) < [[0.62], [0.4]]).astype(float)
        found = compare_recalls(hits, other, np.arange(num_videos), resamples=399, seed=trial)
        near += abs(found.p_value - 0.05) < 0.03
        assert found.estimable
        assert (found.p_value <= 0.05) == (found.low > 0 or found.high < 0)
    assert near > 30


def test_the_expansion_at_few_videos() -> None:
    # Twenty videos: wider than the percentile interval by sqrt(20 / 19) t_19 / 1.96 = 1.096.
    difference = np.random.default_rng(3).normal(size=(20, 1))
    zeros = np.zeros((20, 1))
    (found,) = compare_runs(difference, zeros, np.arange(20), resamples=40_000, seed=0)
    low, high = recall_interval(difference[:, 0], np.arange(20), resamples=40_000, seed=0)
    assert (found.high - found.low) / (high - low) == pytest.approx(1.096, abs=0.02)
    t_test = stats.ttest_1samp(difference[:, 0], 0)
    assert found.p_value == pytest.approx(t_test.pvalue, abs=0.03)


def test_one_run_each_over_seeds_is_the_paired_t_test_over_videos() -> None:
    generator = np.random.default_rng(4)
    hits, other = generator.random((2, 1, 50))
    found = compare_seeds(hits, other, np.arange(50))
    theirs = stats.ttest_rel(hits[0], other[0])
    interval = theirs.confidence_interval()
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert found.degrees_of_freedom == pytest.approx(49)


def test_where_only_seeds_vary_it_is_welchs_t_test_over_seeds() -> None:
    # Every video agrees within a seed, so videos add nothing and nothing is held by both.
    first, second = np.array([0.50, 0.52, 0.57]), np.array([0.44, 0.45, 0.43, 0.47])
    hits, other = (np.repeat(values[:, None], 30, axis=1) for values in (first, second))
    found = compare_seeds(hits, other, np.arange(30))
    theirs = stats.ttest_ind(first, second, equal_var=False)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-4)
    assert found.degrees_of_freedom == pytest.approx(theirs.df)
    assert found.points == pytest.approx(100 * (first.mean() - second.mean()))


def test_the_parts_of_the_variance_by_a_loop() -> None:
    # Two seeds of one method, one run of the other, 1 to 3 queries a video.
    generator = np.random.default_rng(5)
    video = np.array([0, 1, 1, 2, 2, 2, 3, 3, 4])
    hits, other = generator.random((2, 9)), generator.random((1, 9))
    num_queries, num_videos = 9, 5

    def shares(row: Values) -> Values:
        return np.array(
            [
                100
                * num_videos
                / num_queries
                * sum(row[q] - row.mean() for q in range(9) if video[q] == v)
                for v in range(num_videos)
            ]
        )

    table = np.array([shares(row) for row in hits])
    mean = table.mean(axis=0)
    videos = np.var(mean - shares(other[0]), ddof=1) / num_videos
    seeds = np.var(100 * hits.mean(axis=1), ddof=1) / 2
    both = ((table - mean) ** 2).sum() / ((2 - 1) * (num_videos - 1)) / (2 * num_videos)
    variance = max(videos, videos + seeds - both)
    found = compare_seeds(hits, other, video)
    assert found.standard_error == pytest.approx(np.sqrt(variance))
    df = variance**2 / (videos**2 / 4 + seeds**2 / 1)
    assert found.degrees_of_freedom == pytest.approx(df)
    half = stats.t.isf(0.025, df) * np.sqrt(variance)
    assert found.high - found.points == pytest.approx(half, rel=1e-4)
    assert found.detectable == pytest.approx(
        half + stats.t.isf(0.2, df) * np.sqrt(variance), rel=1e-4
    )


def test_seeds_without_any_difference() -> None:
    hits = np.ones((3, 12))
    found = compare_seeds(hits, hits, np.arange(12))
    assert (found.points, found.p_value, found.degrees_of_freedom, found.queries) == (0, 1, 11, 12)
    assert not found.estimable


def test_mirrored() -> None:
    generator = np.random.default_rng(6)
    hits, other = (generator.random((2, 3, 60)) < [[[0.5]], [[0.4]]]).astype(float)
    found = compare_seeds(hits, other, np.arange(60) // 2)
    mirrored = compare_seeds(other, hits, np.arange(60) // 2)
    assert (mirrored.points, mirrored.low) == pytest.approx((-found.points, -found.high))
    assert mirrored.p_value == pytest.approx(found.p_value)


def test_seeds_whose_variance_cancels_are_not_estimable():
    """Rounding of what is added and subtracted would be a tiny variance, and p 1e-30."""
    hits = np.array([[1, 1, 1, 0, 1, 1], [1, 1, 0, 0, 1, 1]], dtype=float)
    difference = compare_seeds(hits, hits[::-1], np.repeat(np.arange(3), 2))
    assert difference.points == 0
    assert math.isnan(difference.low)
    assert difference.p_value == 1
