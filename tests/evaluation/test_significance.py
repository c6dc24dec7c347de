import numpy as np
import pytest

from gare_cache.evaluation.significance import paired_difference, recall_interval


def test_one_query_a_video_agrees_with_the_normal_interval() -> None:
    hits = np.zeros(1000)
    hits[:400] = 1
    low, high = recall_interval(hits, np.arange(1000), resamples=4000, seed=0)
    half = 1.96 * np.sqrt(0.4 * 0.6 / 1000) * 100
    assert low == pytest.approx(40 - half, abs=0.25)
    assert high == pytest.approx(40 + half, abs=0.25)


def test_captions_that_hit_together_count_as_one_video() -> None:
    video = np.arange(100)
    hits = (video < 40).astype(float)
    alone = recall_interval(hits, video, resamples=2000, seed=1)
    repeated = recall_interval(hits.repeat(20), video.repeat(20), resamples=2000, seed=1)
    assert repeated == pytest.approx(alone)
    as_if_independent = recall_interval(hits.repeat(20), np.arange(2000), resamples=2000, seed=1)
    assert as_if_independent[1] - as_if_independent[0] < 0.4 * (alone[1] - alone[0])


def test_the_difference_is_paired() -> None:
    generator = np.random.default_rng(0)
    reference = (generator.random(500) < 0.5).astype(float)
    better = reference.copy()
    better[np.flatnonzero(reference == 0)[:25]] = 1
    difference, low, high, p = paired_difference(
        better, reference, np.arange(500), resamples=2000, seed=0
    )
    assert difference == pytest.approx(5)
    assert 2.5 < low < 5 < high < 7.5  # unpaired it would be some 12 points wide
    mirrored = paired_difference(reference, better, np.arange(500), resamples=2000, seed=0)
    assert mirrored == pytest.approx((-difference, -high, -low, p))
    assert p == pytest.approx(2 / 2001)


def test_no_difference_is_no_difference() -> None:
    hits = np.ones(10)
    assert paired_difference(hits, hits, np.arange(10), resamples=10, seed=0) == (0, 0, 0, 1)
