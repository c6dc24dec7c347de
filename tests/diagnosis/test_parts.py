import dataclasses
import json

import numpy as np
import pytest
import torch

from gare_cache.diagnosis import parts as diagnostics
from gare_cache.diagnosis.gradients import BatchGradients, PairGradients
from gare_cache.errors import ConfigError
from gare_cache.evaluation.metrics import both_directions
from gare_cache.evaluation.modality_gap import MatchedPairs

EYE = torch.eye(2, dtype=torch.float64)


def gradients(**values: torch.Tensor) -> PairGradients:
    ones = torch.ones(2, 2, dtype=torch.float64)
    usual = {
        "positive": ones,
        "negative": -ones / 2,
        "tension": torch.tensor([0.25, 0.5], dtype=torch.float64),
        "lengths": ones,
        "along": torch.zeros_like(ones),
    }
    return PairGradients(**{**usual, **values})


def batch(corrected: PairGradients, increments: torch.Tensor) -> BatchGradients:
    plain = gradients(tension=torch.tensor([0.5, 0.25], dtype=torch.float64))
    return BatchGradients(corrected, plain, increments, torch.full((2, 2), 0.5).double())


def test_distributions_share_bins_and_leave_out_what_is_not_finite() -> None:
    found = diagnostics.distributions(
        {"a": np.array([0.0, 1.0, np.nan]), "b": np.array([2.0, 4.0]), "c": np.array([np.inf])}
    )
    assert found["edges"][0] == 0
    assert found["edges"][-1] == 4
    assert len(found["edges"]) == diagnostics.NUM_BINS + 1
    a, c = found["series"]["a"], found["series"]["c"]
    assert (a["n"], a["left out"], a["mean"], a["median"]) == (2, 1, 0.5, 0.5)
    assert a["counts"][0] == a["counts"][10] == 1
    assert (c["n"], c["left out"], c["mean"]) == (0, 1, None)
    empty = diagnostics.distributions({"a": np.array([])})
    assert empty["series"]["a"]["counts"] == [0] * diagnostics.NUM_BINS


def test_gradient_part_by_hand() -> None:
    part = diagnostics.gradient_part(batch(gradients(), EYE))["with"]
    assert part["positive"] == [1, 1]
    assert part["negative"] == [-0.5, -0.5]
    assert part["sum"] == [0.5, 0.5]
    root = np.sqrt(2)
    assert part["norms"] == pytest.approx({"positive": root, "negative": root / 2, "sum": root / 2})
    assert part["opposition"] == pytest.approx(-1)


def test_tension_part_compares_anchor_by_anchor() -> None:
    part = diagnostics.tension_part(batch(gradients(), EYE))
    assert part["anchors"]["series"]["with"]["mean"] == 0.375
    assert part["gain"]["series"]["gain"]["counts"][0] == 1
    assert part["higher"] == 0.5


def test_descent_part_by_hand() -> None:
    # Own pairs: increments of length 2 with component -1 along g, so cos(Delta, -g) = 1/2.
    along = torch.tensor([[-1.0, 0.5], [0.25, -1.0]], dtype=torch.float64)
    increments = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    part = diagnostics.descent_part(batch(gradients(along=along), increments))
    series = part["with"]["series"]
    assert series["matched"]["mean"] == pytest.approx(0.5)
    assert series["unmatched"]["mean"] == pytest.approx(-0.375)
    assert series["hardest"]["mean"] == pytest.approx(-0.375)  # the only other pair
    assert part["without"]["series"]["matched"]["mean"] == 0


def test_step_part_by_hand() -> None:
    # Increment 3 straight down g (along -3) in a radius of 3: no step left, |a - eta| = eta.
    # Increment 3 straight up (along 3): a = 2 eta, |a - eta| = eta. Across with 0: a = eta.
    along = torch.tensor([[-3.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    increments = torch.tensor([[3.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    lengths = torch.full((2, 2), 0.5, dtype=torch.float64)
    found = batch(gradients(along=along, lengths=lengths), increments)
    part = diagnostics.step_part(found, 3.0)
    assert part["relative"]["series"]["matched"]["mean"] == pytest.approx(1)
    assert part["relative"]["series"]["unmatched"]["mean"] == pytest.approx(0)
    assert part["difference"]["series"]["matched"]["median"] == pytest.approx(np.log10(6))
    assert part["difference"]["series"]["unmatched"]["left out"] == 2  # log of 0
    assert part["scaled back"] == 0
    assert (
        diagnostics.step_part(dataclasses.replace(found, increments=increments * 2), 3.0)[
            "scaled back"
        ]
        == 0.5
    )


@pytest.mark.parametrize("side", ["text", "video"])
def test_geometry_part_by_hand(side: str) -> None:
    text = np.array([[3, 4], [0, 1]], np.float32)
    video = np.array([[0, 5], [1, 0]], np.float32)
    delta = np.array([[-3, 1], [1, -1]], np.float32)
    scores = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    part = diagnostics.geometry_part(
        MatchedPairs(text, video, delta), side, scores, scores / 2, np.array([0, 1])
    )
    cosines = part["cosines"]
    assert cosines["matched"]["series"]["with"]["mean"] == pytest.approx(0.85)
    assert cosines["unmatched"]["series"]["without"]["mean"] == pytest.approx(0.075)
    item = "t + Delta" if side == "text" else "p + Delta"
    assert set(part["norms"]["series"]) == {"t", "Delta", item, "p"}
    # Text side: t + Delta is p exactly. Video side: p + Delta - t = (-6, 2) and (2, -2).
    with_delta = 0 if side == "text" else (np.sqrt(40) + np.sqrt(8)) / 2
    distances = part["distances"]["series"]
    assert distances["with"]["mean"] == pytest.approx(with_delta)
    assert distances["without"]["mean"] == pytest.approx((np.sqrt(10) + np.sqrt(2)) / 2)
    # Means (1.5, 2.5) and (0.5, 2.5); of the directions (.3, .9) and (.5, .5).
    assert part["means"]["vectors"]["without"] == pytest.approx(1)
    assert part["means"]["directions"]["without"] == pytest.approx(np.hypot(0.2, 0.4))
    assert part["angles"]["series"]["gap"]["mean"] == pytest.approx(0, abs=1e-4)
    with pytest.raises(ConfigError, match="no increment to diagnose"):
        diagnostics.geometry_part(
            MatchedPairs(text, video, None), side, scores, scores, np.array([0, 1])
        )


def test_recall_part_pairs_every_variant_with_the_reference() -> None:
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(8), 2)
    good = np.eye(8, dtype=np.float32)[truth]
    noisy = good + 2 * generator.random((16, 8)).astype(np.float32)
    part = diagnostics.recall_part(
        {"head": good, "zero": noisy},
        truth,
        reference="head",
        convention="best_caption_of_all",
        resamples=200,
        seed=0,
    )
    assert part["head"]["t2v"]["R@1"] == 100
    assert "difference" not in part["head"]["t2v"]
    ranks = both_directions(noisy, truth, convention="best_caption_of_all")
    for direction, queries in (("t2v", 16), ("v2t", 8)):
        one = part["zero"][direction]
        assert one["R@1"] == pytest.approx(100 * ranks[direction].hits(1).mean())
        assert one["difference"]["points"] == pytest.approx(one["R@1"] - 100)
        assert one["queries"] == queries
        assert one["difference"]["low"] <= one["difference"]["points"] <= 0


@pytest.mark.parametrize("convention", ["best_caption_of_all", "best_caption_group"])
def test_coverage_part_against_a_slow_loop(convention: str) -> None:
    generator = np.random.default_rng(1)
    truth = np.repeat(np.arange(15), 2)
    corrected, plain = generator.random((2, 30, 15)).astype(np.float32)
    part = diagnostics.coverage_part(corrected, plain, truth, convention)
    assert list(part["t2v"]["at"]) == ["10"]  # 15 videos: 20 would hold all
    shares = [
        len(set(np.argsort(-c)[:10]) & set(np.argsort(-p)[:10])) / 10
        for c, p in zip(corrected, plain, strict=True)
    ]
    assert part["t2v"]["at"]["10"]["share"] == pytest.approx(np.mean(shares))
    assert part["t2v"]["at"]["10"]["whole"] == pytest.approx(np.mean(np.array(shares) == 1))
    grouped = convention == "best_caption_group"
    assert list(part["v2t"]["at"]) == (["10"] if grouped else ["10", "20"])
    if grouped:
        best = [one.reshape(15, 2, 15).max(axis=1) for one in (corrected, plain)]
    else:
        best = [corrected, plain]
    inside = [
        len(set(np.argsort(-c)[:10]) & set(np.argsort(-p)[:10])) / 10
        for c, p in zip(best[0].T, best[1].T, strict=True)
    ]
    assert part["v2t"]["at"]["10"]["share"] == pytest.approx(np.mean(inside))


def test_equal_towers_cover_each_other() -> None:
    scores = np.random.default_rng(2).random((30, 30)).astype(np.float32)
    part = diagnostics.coverage_part(scores, scores, np.arange(30), "best_caption_of_all")
    assert all(one == {"share": 1.0, "whole": 1.0} for one in part["t2v"]["at"].values())


def test_jsonable_has_no_number_that_json_lacks() -> None:
    value = {"a": [1.0, float("nan"), (float("inf"), 2)], "b": {"c": None}}
    assert diagnostics.jsonable(value) == {"a": [1.0, None, [None, 2]], "b": {"c": None}}
    json.dumps(diagnostics.jsonable(value), allow_nan=False)
