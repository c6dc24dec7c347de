"""The sentences of a run's report."""

import dataclasses

import pytest

from gare_cache.evaluation.results import CountedResult, PairedDifference, SplitResult
from gare_cache.evaluation.scores import HEAD, ZERO_SHOT
from gare_cache.reports.run_content import alternative_rows, result_rows, verdict
from tests.reports.sample import CARD
from tests.reports.sample import HEAD as HEAD_ROW
from tests.reports.sample import ZERO_SHOT as ZERO_SHOT_ROW

NAMES = {ZERO_SHOT: "zero shot", HEAD: "head"}


def difference(points: float, p: float) -> PairedDifference:
    return PairedDifference(points, points - 1, points + 1, 100, p, p)


def result(t2v: PairedDifference, v2t: PairedDifference) -> SplitResult:
    methods = {ZERO_SHOT: ZERO_SHOT_ROW.scores, HEAD: HEAD_ROW.scores}
    counted = CountedResult("drop", methods, {"t2v": t2v, "v2t": v2t})
    return SplitResult(
        run_key="k",
        manifest="m",
        split="test",
        captions="all",
        v2t_convention="best_caption_of_all",
        coverage="100 of 103 test videos",
        num_texts=400,
        num_videos=100,
        card=CARD,
        headline=counted,
        alternative=None,
        normalisers=None,
    )


IN_T2V, IN_V2T = "text to video (R@1 61.5 against 22.2)", "video to text (R@1 64.0 against 25.0)"


@pytest.mark.parametrize(
    ("t2v", "v2t", "sentence"),
    [
        ((39.2, 0.01), (39.0, 0.01), f"better than zero shot in {IN_T2V} and in {IN_V2T}."),
        (
            (39.2, 0.01),
            (39.0, 0.2),
            f"better than zero shot in {IN_T2V} and not distinguishable from zero shot in "
            f"{IN_V2T}.",
        ),
        (
            (-2.0, 0.05),
            (3.0, 0.01),
            f"worse than zero shot in {IN_T2V} and better than zero shot in {IN_V2T}.",
        ),
        (
            (0.0, 1.0),
            (0.0, 1.0),
            f"not distinguishable from zero shot in {IN_T2V} and in {IN_V2T}.",
        ),
    ],
)
def test_the_verdict_follows_the_adjusted_p(
    t2v: tuple[float, float], v2t: tuple[float, float], sentence: str
) -> None:
    assert verdict(result(difference(*t2v), difference(*v2t))) == f"The head is {sentence}"


def test_rows_have_short_names_with_the_rule_where_there_are_two() -> None:
    one = result(difference(1.0, 1.0), difference(1.0, 1.0))
    assert [row.name for row in result_rows(one, NAMES)] == ["zero shot", "head"]
    other = dataclasses.replace(one.headline, missing="count_as_miss")
    both = dataclasses.replace(one, alternative=other)
    assert [row.name for row in result_rows(both, NAMES)] == [
        "zero shot (left out)",
        "head (left out)",
    ]
    assert [row.name for row in alternative_rows(both, NAMES)][1] == "head (as misses)"
