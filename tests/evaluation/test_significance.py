import numpy as np
import pytest

from gare_cache.evaluation.significance import recall_interval


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


@pytest.mark.parametrize("hits", [np.ones(10), np.zeros(10), np.ones(1)])
def test_equal_videos_tell_no_interval(hits: np.ndarray) -> None:
    low, high = recall_interval(hits, np.arange(len(hits)), resamples=50, seed=0)
    assert np.isnan([low, high]).all()
