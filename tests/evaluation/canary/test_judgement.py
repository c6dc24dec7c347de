from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import binomtest

from gare_cache.errors import ConfigError
from gare_cache.evaluation.canary.judgement import (
    CanaryRow,
    explain_failure,
    hits_distribution,
    judge,
    score_shift,
    shift_p,
    text_to_video_chances,
    two_sided_p,
    video_to_text_chances,
)
from gare_cache.evaluation.metrics import V2T_CONVENTIONS, text_to_video, video_to_text


@pytest.mark.parametrize(
    ("queries", "chance"), [(5, 0.5), (40, 1 / 7), (3000, 1 / 60), (30_000, 1 / 60), (9, 0.9)]
)
def test_equal_chances_are_the_binomial_test(queries: int, chance: float) -> None:
    mean, deviation = queries * chance, (queries * chance * (1 - chance)) ** 0.5
    for step in (-4.0, -2.0, -0.3, 0.0, 0.7, 1.5, 3.3, 6.0):
        hits = int(np.clip(round(mean + step * deviation), 0, queries))
        expected = binomtest(hits, queries, chance).pvalue
        assert two_sided_p(hits, np.full(queries, chance)) == pytest.approx(expected, rel=1e-8)


def test_unequal_chances_against_exact_fractions() -> None:
    chances = [Fraction(n, 12) for n in (1, 1, 1, 4, 5, 11, 3, 3)]
    expected = [Fraction(1)]
    for chance in chances:
        missed = [p * (1 - chance) for p in [*expected, Fraction(0)]]
        hit = [p * chance for p in [Fraction(0), *expected]]
        expected = [a + b for a, b in zip(missed, hit, strict=True)]
    found = hits_distribution(np.array(chances, dtype=float))
    np.testing.assert_allclose(found, np.array(expected, dtype=float), rtol=1e-12)
    for hits in range(9):
        p = sum(e for e in expected if e <= expected[hits])
        assert two_sided_p(hits, np.array(chances, dtype=float)) == pytest.approx(float(p))


def test_hits_that_cannot_be_have_no_probability() -> None:
    assert two_sided_p(20_000, np.full(20_000, 0.001)) == 0
    assert two_sided_p(0, np.full(20_000, 0.05)) < 1e-300


@pytest.mark.parametrize("levels", [1, 2, 3, 1000])
@pytest.mark.parametrize("convention", V2T_CONVENTIONS)
def test_chances_are_the_mean_over_all_ownerships(convention: str, levels: int) -> None:
    generator = np.random.default_rng(levels)
    group_of_text = generator.permutation(np.repeat(np.arange(5), [1, 2, 3, 1, 4]))
    similarity = generator.integers(0, levels, (len(group_of_text), 5)).astype(float)
    t2v, v2t = np.zeros(len(group_of_text)), np.zeros(5)
    owners = [np.array(order) for order in permutations(range(5))]
    for owner in owners:
        video_of_text = owner[group_of_text]
        t2v += text_to_video(similarity, video_of_text).hits(1)
        v2t += video_to_text(similarity, video_of_text, convention=convention).hits(1)
        found = video_to_text_chances(similarity, video_of_text, convention=convention)
        np.testing.assert_allclose(
            found, video_to_text_chances(similarity, group_of_text, convention=convention)
        )
    np.testing.assert_allclose(found, v2t / len(owners))
    np.testing.assert_allclose(text_to_video_chances(similarity), t2v / len(owners))


def test_a_tie_by_hand() -> None:
    similarity, owner = np.ones((3, 2)), np.array([0, 0, 1])
    of_all = video_to_text_chances(similarity, owner, convention="best_caption_of_all")
    assert of_all == pytest.approx([5 / 12, 5 / 12])
    group = video_to_text_chances(similarity, owner, convention="best_caption_group")
    assert group == pytest.approx([1 / 2, 1 / 2])
    with pytest.raises(ConfigError, match="unknown v2t convention 'group'"):
        video_to_text_chances(similarity, owner, convention="group")


def test_a_video_without_a_caption_is_no_query() -> None:
    similarity = np.random.default_rng(0).normal(size=(4, 6))
    found = video_to_text_chances(
        similarity, np.array([5, 0, 5, 2]), convention="best_caption_of_all"
    )
    assert found.tolist() == [1 / 3] * 3


def test_p_values_are_uniform_under_chance() -> None:
    generator = np.random.default_rng(0)
    chances = np.repeat([1 / 60, 1 / 48, 1 / 40], 3000)
    distribution = hits_distribution(chances)
    p_of_hits = np.array([two_sided_p(hits, chances) for hits in range(len(distribution))])
    # The exact level, not a sample: the test may fall short of a level but never exceed it.
    for level in (0.5, 0.1, 0.01, 0.001):
        assert distribution[p_of_hits <= level].sum() <= level
        assert distribution[p_of_hits <= level].sum() > 0.7 * level
    assert distribution.sum() == pytest.approx(1)
    rows = [
        judge("", "t2v", [(generator.random(9000) < chances).astype(float)], [chances], generator)
        for _ in range(200)
    ]
    assert sum(row.p is not None and row.p < 0.1 for row in rows) < 40


def test_ties_are_drawn() -> None:
    generator = np.random.default_rng(0)
    chances = [np.full(500, 0.02)] * 40
    row = judge("ties", "t2v", chances, chances, generator)
    assert row.passed
    assert row.queries == 20_000
    assert row.expected == pytest.approx(400)
    assert row.hits is not None
    assert row.hits != 400
    assert abs(row.hits - 400) < 80


def test_too_many_and_too_few_hits_fail() -> None:
    generator = np.random.default_rng(0)
    chances = [np.full(500, 0.02)] * 4
    for share in (0.0, 1.0, 0.05):
        hits = [np.repeat([1.0, 0.0], [round(500 * share), 500 - round(500 * share)])] * 4
        row = judge("leak", "v2t", hits, chances, generator)
        assert not row.passed
        message = explain_failure([row])
        assert message is not None
        assert f"leak, v2t: {round(2000 * share):,} hits where chance gives 40.0" in message
    passing = CanaryRow("a", "t2v", 10, 1, 1.0, 1.0, passed=True)
    assert explain_failure([passing]) is None
    assert str(passing).split()[-1] == "PASS"


def test_another_number_of_ranks_than_queries_fails() -> None:
    row = judge(
        "dropped", "t2v", [np.zeros(4), np.zeros(3)], [np.full(4, 0.1)] * 2, np.random.default_rng()
    )
    assert (row.passed, row.p, row.note) == (False, None, "7 ranks for 8 queries")
    assert str(row).endswith("7 ranks for 8 queries  FAIL")
    assert "dropped, t2v: 7 ranks for 8 queries" in str(explain_failure([row]))


def test_shift_against_all_assignments() -> None:
    similarity = np.random.default_rng(1).normal(size=(3, 4))
    scores = similarity - similarity.mean(axis=1, keepdims=True)
    scores /= scores.std(axis=1, keepdims=True)
    apart = [sum(scores[i, v[i]] for i in range(3)) for v in permutations(range(4), 3)]
    shift = score_shift(similarity, np.array([2, 0, 3]), independent=False)
    assert shift.total == pytest.approx(scores[0, 2] + scores[1, 0] + scores[2, 3])
    assert np.mean(apart) == pytest.approx(0)
    assert shift.variance == pytest.approx(np.var(apart))
    drawn = [sum(scores[i, v[i]] for i in range(3)) for v in product(range(4), repeat=3)]
    alone = score_shift(similarity, np.array([2, 0, 3]), independent=True)
    assert alone.variance == pytest.approx(np.var(drawn)) == pytest.approx(3)
    tied = score_shift(np.ones((3, 4)), np.array([2, 0, 3]), independent=True)
    assert shift_p([tied]) == 1


def test_a_shift_is_seldom_by_chance_and_often_by_a_leak() -> None:
    generator = np.random.default_rng(2)
    p_of = {0.0: [], 0.1: []}
    for bonus, values in p_of.items():
        for _ in range(300):
            similarity = generator.normal(size=(40, 60))
            similarity[np.arange(40), np.arange(40)] += bonus
            shifts = [score_shift(similarity, np.arange(40), independent=False)] * 1
            values.append(shift_p(shifts))
    assert 0.02 < np.mean(np.array(p_of[0.0]) < 0.05) < 0.09
    assert np.mean(np.array(p_of[0.1]) < 0.05) > 0.08
