import json

import pytest

from gare_cache.evaluation.results import (
    CountedResult,
    DirectionResult,
    PairedDifference,
    SplitResult,
    adjusted_pairs,
    sum_of_recalls,
)
from tests.reports.sample import CARD

SCORES = DirectionResult(
    {"R@1": 20.0, "R@5": 50.0, "R@10": 60.0, "R@50": 90.0, "MdR": 5.0, "MnR": 9.5},
    low=15.0,
    high=25.0,
    queries=8,
    queries_with_features=8,
    queries_listed=10,
    items=4,
    items_listed=5,
    tied=1,
)
DIFFERENCE = PairedDifference(2.0, 0.5, 3.5, videos=4, p_value=0.03, p_holm=0.03)


def make_result() -> SplitResult:
    both = {"t2v": SCORES, "v2t": SCORES}
    difference = adjusted_pairs(dict.fromkeys(both, DIFFERENCE))
    headline = CountedResult("drop", {"head": both}, difference)
    other = CountedResult("count_as_miss", {"head": both}, difference)
    return SplitResult(
        run_key="k",
        manifest="m",
        split="test",
        captions="all",
        v2t_convention="best_caption_of_all",
        coverage="4 of 5",
        num_texts=8,
        num_videos=4,
        card=CARD,
        headline=headline,
        alternative=other,
        normalisers={"rows": []},
    )


def test_what_is_written_is_read_back() -> None:
    result = make_result()
    written = json.loads(json.dumps(result.to_json()))
    assert SplitResult.from_json(written) == result
    assert SplitResult.from_json(written).to_json() == written
    assert written["methods"]["head"]["t2v"]["R@1 low"] == 15.0
    assert written["methods"]["head"]["v2t"]["queries listed"] == 10
    assert written["difference"]["t2v"] == {
        **{"R@1": 2.0, "R@1 low": 0.5, "R@1 high": 3.5, "videos": 4},
        **{"p": 0.03, "p Holm": 0.06},
    }


def test_what_an_older_version_wrote_lacks_an_entry() -> None:
    written = make_result().to_json()
    del written["difference"]["t2v"]["p"]
    with pytest.raises(KeyError, match="p"):
        SplitResult.from_json(written)


def test_the_verdict_is_of_the_adjusted_p() -> None:
    # An interval that leaves out 0, and p 0.03 twice: 0.06 after Holm.
    assert DIFFERENCE.low > 0
    assert DIFFERENCE.distinguishable
    family = adjusted_pairs({"t2v": DIFFERENCE, "v2t": DIFFERENCE})
    assert not family["t2v"].distinguishable


def test_the_sum_of_recalls_is_over_both_directions() -> None:
    assert sum_of_recalls({"t2v": SCORES, "v2t": SCORES}) == 260.0
