import dataclasses
import math
import statistics

import numpy as np
import pytest

from gare_cache.config import parse_params
from gare_cache.evaluation.comparison.differences import (
    Difference,
    compare_runs,
    compare_seeds,
    holm,
)
from gare_cache.studies.expansion import Variant
from gare_cache.studies.results import RunResult
from gare_cache.studies.table import StudyRow, smallest_visible, study_rows
from tests.studies.made import BASE, run_result, scored_run, split_result

MISS = 3


def table(
    names: list[str], runs: list[RunResult], *, missing: str = "drop", reference: str = "base"
) -> list[StudyRow]:
    """Return the rows, the best first."""
    params = parse_params(BASE, where="here")
    variants = [Variant(name, {}, {}, params) for name in names]
    rows = study_rows(
        variants, runs, reference=reference, split="val", missing=missing, resamples=200
    )
    assert [row.name for row in rows] == names
    return sorted(rows, key=lambda row: (row.rank is None, row.rank))


def unadjusted(difference: Difference) -> Difference:
    return dataclasses.replace(difference, p_holm=difference.p_value)


def test_mean_spread_rank_and_n() -> None:
    runs = [
        scored_run("base", 0, [0, MISS], r1=50.0, score=40.0),
        scored_run("base", 1, [0, MISS], r1=53.0, score=44.0),
        scored_run("a", 0, [0, 0], r1=60.0, score=43.0),
        run_result("a", 1, reason="it broke"),
        run_result("b", 0, reason="it broke, too"),
    ]
    rows = table(["base", "a", "b", "c"], runs)
    tied = table(["base", "a", "b"], [*runs[:3], scored_run("b", 0, [0, 0], r1=1.0, score=43.0)])
    assert {row.name: row.rank for row in tied} == {"a": 1, "b": 1, "base": 3}
    assert [(row.name, row.rank, len(row.runs)) for row in rows] == [
        ("a", 1, 1),
        ("base", 2, 2),
        ("b", None, 0),
        ("c", None, 0),
    ]
    first, base, failed, missing = rows
    assert base.mean["t2v.R@1"] == pytest.approx(51.5)
    assert base.std["t2v.R@1"] == pytest.approx(math.sqrt(4.5))
    assert base.validation_score == pytest.approx(42.0)
    assert first.std == {}
    assert first.failures == [(1, "it broke")]
    assert (failed.mean, failed.failures) == ({}, [(0, "it broke, too")])
    assert missing.failures == []
    assert [bool(row.differences) for row in rows] == [True, False, False, False]


def test_differences_are_those_of_compare_with_holm_over_the_table() -> None:
    ahead = {
        "base": [[0, MISS, MISS, 0], [0, MISS, MISS, MISS]],
        "a": [[0, 0, 0, 0], [0, 0, MISS, 0]],
        "b": [[MISS, 0, MISS, 0], [0, MISS, 0, MISS]],
    }
    runs = [
        scored_run(name, seed, values, r1=0.0, score=0.0)
        for name, seeds in ahead.items()
        for seed, values in enumerate(seeds)
    ]
    hits = {name: np.array(values) == 0 for name, values in ahead.items()}
    video = np.arange(4)
    expected = {
        name: compare_seeds(hits[name].astype(float), hits["base"].astype(float), video)
        for name in ("a", "b")
    }
    rows = {row.name: row for row in table(list(ahead), runs)}
    adjusted = holm([expected[name].p_value for _ in range(2) for name in ("a", "b")])
    for place, name in enumerate(("a", "b")):
        found = rows[name].differences
        assert found["t2v.R@1"] == found["v2t.R@1"]
        assert unadjusted(found["t2v.R@1"]) == expected[name]
        assert found["t2v.R@1"].p_holm == pytest.approx(adjusted[place])
        assert found["t2v.R@1"].queries == 4
    # a hits 7 of 8, base 3 of 8.
    assert rows["a"].differences["t2v.R@1"].points == pytest.approx(50.0)
    assert not rows["a"].differences["t2v.R@1"].distinguishable


def test_single_runs_are_compared_by_the_bootstrap() -> None:
    ahead, base = [0] * 30 + [MISS] * 10, [MISS] * 30 + [0] * 10
    runs = [
        scored_run("base", 0, base, r1=25.0, score=1.0),
        scored_run("a", 0, ahead, r1=75.0, score=2.0),
    ]
    hits, other = ((np.array(v) == 0).astype(float)[:, None] for v in (ahead, base))
    expected = compare_runs(hits, other, np.arange(40), resamples=200, seed=0)[0]
    row = table(["base", "a"], runs)[0]
    assert unadjusted(row.differences["t2v.R@1"]) == expected
    assert row.differences["t2v.R@1"].distinguishable
    assert smallest_visible([row])["t2v.R@1"] == {
        "half_width": expected.half_width,
        "detectable": expected.detectable,
    }


def test_what_can_be_seen_is_the_median_row() -> None:
    names = ["base", "a", "b", "c"]
    ahead = [[0, MISS, 0], [0, 0, 0], [MISS, 0, MISS], [0, MISS, MISS]]
    pairs = zip(names, ahead, strict=True)
    runs = [scored_run(name, 0, 4 * values, r1=0.0, score=0.0) for name, values in pairs]
    rows = table(names, runs)
    widths = [row.differences["v2t.R@1"].half_width for row in rows if row.differences]
    assert len(widths) == 3
    assert smallest_visible(rows)["v2t.R@1"]["half_width"] == statistics.median(widths)
    assert smallest_visible([row for row in rows if row.name == "base"]) == {}


def test_queries_without_features() -> None:
    # q2 has no features in `a`: left out of both, or a miss of `a`.
    runs = [
        scored_run("base", 0, [MISS, 0, 0], r1=0.0, score=0.0),
        scored_run("a", 0, [0, 0, None], r1=0.0, score=1.0),
    ]
    dropped, counted = (
        table(["base", "a"], runs, missing=rule)[0].differences
        for rule in ("drop", "count_as_miss")
    )
    assert (dropped["t2v.R@1"].queries, dropped["t2v.R@1"].points) == (2, 50.0)
    assert (counted["t2v.R@1"].queries, counted["t2v.R@1"].points) == (3, 0.0)


def test_one_video_makes_no_difference() -> None:
    one = [run_result(n, 0, splits={"val": split_result([0], r1=0.0)}) for n in ("base", "a")]
    assert not any(row.differences for row in table(["base", "a"], one))


def test_rows_of_the_same_trainings_are_paired_by_training() -> None:
    # Seed 0 finds 3 of 12, seed 1 finds 9; "a" finds 3 more of each.
    base = [[0] * 3 + [MISS] * 9, [0] * 9 + [MISS] * 3]
    more = [[0] * 6 + [MISS] * 6, [0] * 12]
    rows = {
        key: table(
            ["base", "a"],
            [
                *(scored_run("base", s, v, r1=0.0, score=0.0) for s, v in enumerate(base)),
                *(
                    dataclasses.replace(
                        scored_run("a", s, v, r1=0.0, score=0.0), run_key=f"{key}{s}"
                    )
                    for s, v in enumerate(more)
                ),
            ],
        )
        for key in ("base", "a")
    }
    found = {
        key: next(row.differences for row in of_key if row.name == "a")
        for key, of_key in rows.items()
    }
    paired, crossed = (found[key]["t2v.R@1"] for key in ("base", "a"))
    assert paired.points == crossed.points == pytest.approx(25.0)
    hits = [(np.array(values) == 0).astype(float) for values in (more, base)]
    expected = compare_seeds(hits[0] - hits[1], np.zeros((1, 12)), np.arange(12))
    assert unadjusted(paired) == expected
    assert unadjusted(crossed) == compare_seeds(*hits, np.arange(12))
    assert paired.standard_error < crossed.standard_error
