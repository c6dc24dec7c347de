import numpy as np
import pytest

from gare_cache.search.moments import Span, check_seconds, find_moment

TIMES = np.arange(6, dtype=np.float32) + 0.5


def moment(scores: list[float], **options: object) -> Span | None:
    given = {"bounds": (0.0, 6.0), **options}
    return find_moment(np.array(scores, np.float32), TIMES[: len(scores)], **given)  # type: ignore[arg-type]


def test_the_span_holds_neighbours_that_match_about_as_well() -> None:
    # The mean is 0.4 and the best 0.9: neighbours count from 0.65 on.
    assert moment([0.1, 0.7, 0.9, 0.7, 0.0, 0.0]) == Span(2.5, 1.0, 4.0)


def test_another_peak_is_another_moment() -> None:
    assert moment([0.8, 0.0, 0.9, 0.0, 0.0, 0.0]) == Span(2.5, 2.0, 3.0)


def test_the_first_and_last_frame_reach_the_ends_of_the_clip() -> None:
    assert moment([0.9, 0.0, 0.0, 0.0, 0.0, 0.0], bounds=(0.3, 6.0)) == Span(0.5, 0.3, 1.0)
    assert moment([0.0, 0.0, 0.0, 0.0, 0.0, 0.9], bounds=(0.0, 5.8)) == Span(5.5, 5.0, 5.8)


def test_a_short_span_grows_inside_the_clip_and_a_long_one_is_cut_about_its_best_frame() -> None:
    peak = [0.9, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert moment(peak, least=3.0) == Span(0.5, 0.0, 3.0)
    assert moment(peak, least=30.0) == Span(0.5, 0.0, 6.0)
    assert moment([0.0, 0.5, 0.6, 0.6, 0.6, 0.0], most=1.0) == Span(2.5, 2.0, 3.0)


def test_equal_frames_are_one_moment_as_long_as_the_video() -> None:
    assert moment([0.5] * 6) == Span(0.5, 0.0, 6.0)


def test_one_frame_stands_for_its_second() -> None:
    assert moment([0.5], bounds=(0.0, None)) == Span(0.5, 0.0, 1.0)


def test_frames_without_times_have_no_moment() -> None:
    scores = np.ones(3, np.float32)
    assert find_moment(scores, np.full(3, np.nan, np.float32), bounds=(0.0, None)) is None


@pytest.mark.parametrize(("least", "most"), [(-1.0, None), (0.0, 0.0), (5.0, 2.0)])
def test_limits_that_no_span_has_are_named(least: float, most: float | None) -> None:
    assert len(check_seconds(least, most)) == 1


def test_limits_that_a_span_has_are_fine() -> None:
    assert check_seconds(1.0, 2.0) == []
