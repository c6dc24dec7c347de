import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gare_cache.errors import ConfigError
from gare_cache.evaluation.metrics import NonFiniteScores, both_directions
from gare_cache.evaluation.normalisers import functions as normaliser_functions
from gare_cache.evaluation.normalisers.apply import (
    Banks,
    apply_normaliser,
    as_directions,
    normalisation_error,
)
from gare_cache.evaluation.normalisers.functions import (
    DirectionScores,
    column_top_mean,
    dsl,
    hub_items,
    log_sum_exp,
    negative_scores,
    qbnorm,
    sinkhorn_biases,
)
from gare_cache.evaluation.normalisers.registry import (
    INDUCTIVE,
    NORMALISERS,
    TRANSDUCTIVE,
    UNCORRECTED,
    NormaliserSetting,
    find_normaliser,
    normalise,
    read_choice,
)

SCALE = 20.0
# Every normaliser in every kind, with parameters that make its parts matter on small matrices.
SETTINGS = [
    {"name": "sinkhorn"},
    {"name": "sinkhorn", "kind": "transductive", "iterations": 7},
    {"name": "sinkhorn", "targets": "annotated"},
    {"name": "inverted_softmax"},
    {"name": "inverted_softmax", "kind": "transductive"},
    {"name": "qbnorm", "beta": 5, "k": 2},
    {"name": "dsl", "temp": 3.0},
    {"name": "dual_is"},
    {"name": "dual_dis"},
    {"name": "dual_dis", "k": 2, "b1": 1.0, "b2": 0.3},
    {"name": "csls", "k": 3},
    {"name": "nnn", "k": 4, "alpha": 0.5},
]


def setting(entry: dict[str, Any]) -> NormaliserSetting:
    (found,) = read_choice(entry).settings()
    return found


def some_scores(seed: int, queries: int = 8, items: int = 6) -> DirectionScores:
    generator = np.random.default_rng(seed)
    targets = generator.integers(1, 4, items).astype(float)
    return DirectionScores(
        logits=SCALE * generator.uniform(-0.2, 0.6, (queries, items)),
        queries=SCALE * generator.uniform(-0.2, 0.6, (11, items)),
        gallery=SCALE * generator.uniform(0.2, 0.8, (9, items)),
        scale=SCALE,
        targets=targets * queries / targets.sum(),
    )


# The formulas as loops over queries i, items j, bank queries k and bank items g.


def loop_lse(values: list[float]) -> float:
    return math.log(math.fsum(math.exp(value) for value in values))


def loop_top(values: list[float], k: int) -> float:
    highest = sorted(values, reverse=True)[:k]
    return math.fsum(highest) / len(highest)


def loop_hubs(bank: np.ndarray, k: int) -> set[int]:
    return {j for row in bank for j in sorted(range(len(row)), key=lambda j: -row[j])[:k]}


def loop_sinkhorn(bank: np.ndarray, targets: list[float], n: int) -> list[float]:
    rows, columns = range(len(bank)), range(bank.shape[1])
    b = [math.log(targets[j]) - loop_lse([bank[i, j] for i in rows]) for j in columns]
    for _ in range(n):
        a = [-loop_lse([bank[i, j] + b[j] for j in columns]) for i in rows]
        b = [math.log(targets[j]) - loop_lse([bank[i, j] + a[i] for i in rows]) for j in columns]
    centre = loop_lse(b)
    return [value - centre for value in b]


def loop(scores: DirectionScores, wanted: NormaliserSetting) -> np.ndarray:
    s, gallery = scores.logits, scores.gallery
    r = s if wanted.kind == TRANSDUCTIVE else scores.queries
    p = dict(wanted.parameters)
    found = np.empty(s.shape)
    num_bank, num_items = r.shape
    bias = []
    if wanted.name == "sinkhorn":
        targets = [num_bank / num_items] * num_items
        if p["targets"] == "annotated":
            targets = [num_bank * t / sum(scores.targets) for t in scores.targets]
        bias = loop_sinkhorn(r, targets, p["iterations"])
    for i in range(len(s)):
        first = max(range(num_items), key=lambda j: s[i, j])
        for j in range(num_items):
            column = [r[k, j] for k in range(num_bank)]
            if wanted.name == "sinkhorn":
                value = s[i, j] + bias[j]
            elif wanted.name == "inverted_softmax":
                value = s[i, j] - loop_lse(column)
            elif wanted.name == "qbnorm":
                cosines = [value / SCALE for value in column]
                value = p["beta"] * s[i, j] / SCALE
                if first in loop_hubs(r, p["k"]):
                    value -= loop_lse([p["beta"] * c for c in cosines])
            elif wanted.name == "dsl":
                over = [math.exp(s[k, j] / p["temp"]) for k in range(len(s))]
                value = s[i, j] * over[i] / sum(over)
            elif wanted.name in ("dual_is", "dual_dis"):
                value = (p["b1"] + p["b2"]) * s[i, j]
                for bank, factor in ((r, p["b1"]), (gallery, p["b2"])):
                    if wanted.name == "dual_is" or first in loop_hubs(bank, p["k"]):
                        value -= loop_lse([factor * x for x in bank[:, j]])
            elif wanted.name == "csls":
                value = 2 * s[i, j] - loop_top(column, p["k"])
            else:
                value = s[i, j] - p["alpha"] * loop_top(column, p["k"])
            found[i, j] = value
    return found


@pytest.mark.parametrize("entry", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_against_the_formula_as_a_loop(entry: dict[str, Any], dtype: type) -> None:
    wanted = setting(entry)
    for seed in range(3):
        scores = some_scores(seed)
        given = replace(
            scores,
            **{name: getattr(scores, name).astype(dtype) for name in ("logits", *NORMALISER_BANKS)},
        )
        tolerance = 1e-11 if dtype is np.float64 else 3e-5
        found = normalise(given, wanted)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, loop(scores, wanted), atol=tolerance, rtol=tolerance)


NORMALISER_BANKS = ("queries", "gallery")


def test_every_normaliser_and_kind_is_among_the_settings() -> None:
    tested = {(one.name, one.kind) for one in map(setting, SETTINGS)}
    assert tested == {(name, kind) for name, one in NORMALISERS.items() for kind in one.kinds}


@pytest.mark.parametrize("entry", SETTINGS, ids=str)
def test_permuting_items_and_queries_permutes_the_scores(entry: dict[str, Any]) -> None:
    wanted, scores = setting(entry), some_scores(3)
    generator = np.random.default_rng(0)
    rows, columns = generator.permutation(8), generator.permutation(6)
    shuffled = DirectionScores(
        logits=scores.logits[rows][:, columns],
        queries=generator.permutation(scores.queries[:, columns]),
        gallery=generator.permutation(scores.gallery[:, columns]),
        scale=SCALE,
        targets=scores.targets[columns],
    )
    np.testing.assert_allclose(
        normalise(shuffled, wanted), normalise(scores, wanted)[rows][:, columns], atol=1e-11
    )


@pytest.mark.parametrize("entry", SETTINGS, ids=str)
def test_blocks_change_nothing(entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = normalise(some_scores(4), setting(entry))
    monkeypatch.setattr(normaliser_functions, "_BLOCK_ENTRIES", 7)
    np.testing.assert_allclose(normalise(some_scores(4), setting(entry)), whole, atol=1e-12)


@pytest.mark.parametrize("entry", SETTINGS, ids=str)
def test_what_is_given_stays_as_it_is(entry: dict[str, Any]) -> None:
    scores, same = some_scores(5), some_scores(5)
    normalise(scores, setting(entry))
    for name in ("logits", *NORMALISER_BANKS):
        np.testing.assert_array_equal(getattr(scores, name), getattr(same, name))


def test_tiny_cases_by_hand() -> None:
    scores = DirectionScores(
        logits=np.log(np.array([[8.0, 4.0], [2.0, 3.0]])),
        queries=np.log(np.array([[2.0, 1.0], [6.0, 1.0]])),
        gallery=np.log(np.array([[1.0, 5.0]])),
        scale=1.0,
    )
    by_name = {
        # Columns of the bank add up to 8 and 2: the first query goes over to item 1.
        "inverted_softmax": [[8 / 8, 4 / 2], [2 / 8, 3 / 2]],
        # Item 0 is the first of both bank queries, so query 0 alone is corrected.
        "qbnorm": [[8 / 8, 4 / 2], [2, 3]],
        "nnn": [[8 / 6, 4 / 1], [2 / 6, 3 / 1]],
        "csls": [[64 / 12**0.5, 16 / 1], [4 / 12**0.5, 9 / 1]],
        # Item 0 is the query bank's hub, item 1 the gallery bank's.
        "dual_is": [[64 / 8 / 1, 16 / 2 / 5], [4 / 8 / 1, 9 / 2 / 5]],
        "dual_dis": [[64 / 8, 16 / 2], [4 / 1, 9 / 5]],
    }
    entries = {
        "qbnorm": {"beta": 1},
        "nnn": {"alpha": 1, "k": 1},
        "dual_is": {"b1": 1, "b2": 1},
        "dual_dis": {"b1": 1, "b2": 1},
    }
    for name, expected in by_name.items():
        found = normalise(scores, setting({"name": name, **entries.get(name, {})}))
        np.testing.assert_allclose(np.exp(found), expected, atol=1e-12, err_msg=name)
    # softmax over the query axis: columns 8 + 2 and 4 + 3.
    np.testing.assert_allclose(
        dsl(scores, temp=1.0),
        [[0.8 * math.log(8), 4 / 7 * math.log(4)], [0.2 * math.log(2), 3 / 7 * math.log(3)]],
    )
    # One iteration on a 1 x 2 bank: column sums are 1/2 each whatever the scores.
    row, column = sinkhorn_biases(np.log([[3.0, 1.0]]), iterations=1, centred=False)
    np.testing.assert_allclose(np.exp(np.log([[3.0, 1.0]]) + row[:, None] + column), [[0.5, 0.5]])


@pytest.mark.parametrize("with_targets", [False, True])
def test_sinkhorn_makes_rows_and_columns_add_up(with_targets: bool) -> None:
    generator = np.random.default_rng(0)
    logits = 10 * generator.uniform(-1, 1, (12, 5))
    targets = np.array([1.0, 2.0, 3.0, 2.0, 4.0]) if with_targets else np.full(5, 12 / 5)
    for iterations in (1, 4, 100):
        row, column = sinkhorn_biases(
            logits,
            iterations=iterations,
            column_targets=targets if with_targets else None,
            centred=False,
        )
        plan = np.exp(logits + row[:, None] + column)
        np.testing.assert_allclose(plan.sum(axis=0), targets, rtol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=1), 1, atol=1e-3)
    row, column = sinkhorn_biases(logits, iterations=4)
    assert np.exp(row).sum() == pytest.approx(1)
    assert np.exp(column).sum() == pytest.approx(1)


def test_sinkhorn_without_iterations_is_the_inverted_softmax() -> None:
    scores = some_scores(6)
    _, bias = sinkhorn_biases(scores.queries, iterations=0)
    difference = scores.logits + bias - normalise(scores, setting({"name": "inverted_softmax"}))
    np.testing.assert_allclose(difference, difference[0, 0], atol=1e-12)


@pytest.mark.parametrize("entry", [*SETTINGS[:5], *SETTINGS[-2:]], ids=str)
def test_sinkhorn_and_the_inverted_softmax_see_no_constant_on_an_item(
    entry: dict[str, Any],
) -> None:
    wanted, scores = setting(entry), some_scores(7)
    bias = np.random.default_rng(1).normal(0, 3, 6)
    biased = replace(scores, logits=scores.logits + bias, queries=scores.queries + bias)
    found, before = normalise(biased, wanted), normalise(scores, wanted)
    same = np.allclose(found - found[:, :1], before - before[:, :1], atol=1e-9)
    assert same == (wanted.name in ("sinkhorn", "inverted_softmax"))


def test_a_bias_of_a_video_never_changes_what_it_finds() -> None:
    generator = np.random.default_rng(2)
    truth = generator.permutation(np.repeat(np.arange(5), [1, 2, 3, 1, 3]))
    logits = generator.normal(0, 4, (10, 5))
    bias = generator.normal(0, 5, 5)
    for convention in ("best_caption_of_all", "best_caption_group"):
        for entry in (None, {"name": "nnn"}, {"name": "csls"}, {"name": "inverted_softmax"}):
            wanted = UNCORRECTED if entry is None else setting(entry)
            bank = generator.normal(0, 4, (9, 10))
            ranks = []
            for given in (logits, logits + bias):
                scores = as_directions(
                    given,
                    truth,
                    scale=None,
                    banks={"t2v": Banks(generator.normal(size=(4, 5))), "v2t": Banks(bank)},
                )
                ranks.append(apply_normaliser(scores, wanted, truth, convention=convention).ranks)
            np.testing.assert_array_equal(ranks[0]["v2t"].ahead, ranks[1]["v2t"].ahead)
            assert (ranks[0]["t2v"].ahead != ranks[1]["t2v"].ahead).any()


@pytest.mark.parametrize("convention", ["best_caption_of_all", "best_caption_group"])
def test_raw_scores_keep_the_ranks_that_metrics_gives(convention: str) -> None:
    generator = np.random.default_rng(3)
    truth = np.array([4, 0, 0, 1, 3, 4, 4])  # video 2 has no text
    logits = generator.integers(0, 6, (7, 5)).astype(np.float32)
    scores = as_directions(logits, truth, scale=None, banks={d: Banks() for d in ("t2v", "v2t")})
    assert scores["v2t"].logits.shape == (4, 7)
    assert scores["t2v"].targets.tolist() == [2, 1, 0, 1, 3]
    assert scores["v2t"].targets.tolist() == pytest.approx([1 / 3, 0.5, 0.5, 1, 1, 1 / 3, 1 / 3])
    found = apply_normaliser(scores, UNCORRECTED, truth, convention=convention).ranks
    expected = both_directions(logits, truth, convention=convention)
    for direction, ranks in expected.items():
        np.testing.assert_array_equal(found[direction].ahead, ranks.ahead)
        np.testing.assert_array_equal(found[direction].ties, ranks.ties)


def test_each_direction_uses_its_own_bank() -> None:
    # Item 0 is a hub among the training queries of one direction and not of the other.
    truth = np.arange(2)
    logits = np.array([[1.0, 0.9], [1.0, 0.9]])
    hub, even = np.array([[5.0, 0.0]]), np.array([[0.0, 0.0]])
    found = []
    for t2v, v2t in ((hub, even), (even, hub)):
        scores = as_directions(
            logits, truth, scale=None, banks={"t2v": Banks(t2v), "v2t": Banks(v2t)}
        )
        wanted = setting({"name": "nnn"})
        ranks = apply_normaliser(scores, wanted, truth, convention="best_caption_of_all").ranks
        found.append((ranks["t2v"].ahead.tolist(), ranks["v2t"].ahead.tolist()))
    # With its hub corrected a query finds item 1 first.
    assert found == [([1, 0], [0, 0]), ([0, 1], [1, 0])]


def test_the_normalisation_error() -> None:
    even = np.zeros((4, 2))
    assert normalisation_error(even, np.array([2.0, 2.0])) == pytest.approx(0)
    assert normalisation_error(even, np.array([3.0, 1.0])) == pytest.approx(1)
    one = np.array([[50.0, 0.0]] * 4)
    assert normalisation_error(one, np.array([2.0, 2.0])) == pytest.approx(2)
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1, (3000, 20)) + generator.normal(0, 1, 20)
    error = normalisation_error(logits, np.full(20, 150.0))
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert error == pytest.approx(np.abs(probability.sum(axis=0) - 150).mean())
    scores = DirectionScores(logits, targets=np.full(20, 150.0))
    after = normalise(scores, setting({"name": "sinkhorn", "kind": "transductive"}))
    assert normalisation_error(after, np.full(20, 150.0)) < error / 20


def test_the_published_matrix(shared_data_dir: Any) -> None:
    logits = np.load(shared_data_dir / "features" / "dgl_msrvtt1ka_vitb16_sim_matrix.npy")
    truth = np.arange(1000)
    scores = as_directions(logits, truth, scale=None, banks={d: Banks() for d in ("t2v", "v2t")})
    expected = {
        "none": [48.0, 71.3, 81.4, 46.7, 74.9, 83.7],
        "dsl": [52.6, 76.6, 85.4, 52.9, 77.1, 85.9],
        "inverted_softmax": [52.7, 76.9, 85.5, 53.0, 76.9, 85.9],
        "sinkhorn": [54.3, 77.5, 85.6, 54.8, 78.0, 86.0],
    }
    for name, recalls in expected.items():
        kind = {} if name == "none" else {"kind": "transductive"}
        found = apply_normaliser(
            scores, setting({"name": name, **kind}), truth, convention="best_caption_of_all"
        )
        assert [
            round(100 * found.ranks[d].hits(k).mean(), 1)
            for d in ("t2v", "v2t")
            for k in (1, 5, 10)
        ] == recalls, name
    # The matrix is one of logits: its softmax retrieves unevenly, Sinkhorn's nearly evenly.
    assert found.errors == pytest.approx({"t2v": 0.039, "v2t": 0.043}, abs=0.001)


def test_large_logits_stay_finite_in_float32() -> None:
    logits = np.array([[100.0, -100.0], [-100.0, 100.0]], dtype=np.float32)
    scores = DirectionScores(logits, logits, logits, scale=100.0)
    for entry in SETTINGS:
        if "targets" not in entry:
            assert np.isfinite(normalise(scores, setting(entry))).all()
    np.testing.assert_allclose(log_sum_exp(logits, axis=0), 100)


def test_places_are_clamped_to_what_there_is() -> None:
    bank = np.array([[1.0, 3.0], [2.0, 1.0]])
    np.testing.assert_allclose(column_top_mean(bank, 128), [1.5, 2.0])
    assert hub_items(bank, 9).tolist() == [True, True]
    assert hub_items(bank[:1], 1).tolist() == [False, True]


def test_an_item_that_ties_with_the_last_place_is_a_hub() -> None:
    assert hub_items(np.array([[2.0, 2.0, 1.0]]), 1).tolist() == [True, True, False]


def test_dsl_turns_the_order_of_negative_scores_round_and_it_is_counted() -> None:
    # Item 0 is more probable for query 0, and ends behind item 1.
    scores = DirectionScores(np.array([[-1.0, -1.0], [-3.0, 2.0]]))
    found = normalise(scores, setting({"name": "dsl"}))
    assert found[0, 0] < found[0, 1]
    assert negative_scores(scores) == 3
    assert "3 of 4 scores are negative" in NORMALISERS["dsl"].caution(scores)
    assert NORMALISERS["dsl"].caution(DirectionScores(np.ones((2, 2)))) == ""


@pytest.mark.filterwarnings("error")
def test_dsl_refuses_probabilities_that_vanish() -> None:
    scores = DirectionScores(np.array([[90.0, 1.0], [1.0, 90.0]]))
    for temp, lost in ((0.1, 2), (1e-310, 4)):
        message = rf"{lost} of 4 probabilities leave float64's range, .*raise temp"
        with pytest.raises(ConfigError, match=message):
            normalise(scores, setting({"name": "dsl", "temp": temp}))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "qb_norm"}, "unknown normaliser 'qb_norm'; did you mean 'qbnorm'"),
        ({"beta": 3}, "a normaliser is a mapping with its name"),
        (
            {"name": "csls", "beta": 3},
            "unknown parameter of normaliser csls 'beta'; known: k, kind",
        ),
        ({"name": "csls", "k": 0}, "csls.k is 0: input should be greater than or equal to 1"),
        ({"name": "csls", "k": 2.5}, "csls.k is 2.5: input should be a valid integer"),
        ({"name": "csls", "k": True}, "csls.k is True: input should be a valid integer"),
        (
            {"name": "qbnorm", "beta": 0},
            "qbnorm.beta is 0: input should be greater than 0",
        ),
        ({"name": "qbnorm", "beta": "20"}, "qbnorm.beta is '20': input should be a valid number"),
        ({"name": "nnn", "alpha": math.inf}, "nnn.alpha is inf: input should be a finite number"),
        ({"name": "sinkhorn", "iterations": 0}, "without iterations it is inverted_softmax"),
        (
            {"name": "sinkhorn", "targets": "true"},
            "sinkhorn.targets is 'true': input should be 'uniform' or 'annotated'",
        ),
        ({"name": "dsl", "temp": []}, "temp of normaliser dsl has an empty list of candidates"),
        ({"name": "dsl", "temp": [1.0, -1.0]}, "dsl.temp is -1.0: input should be greater than 0"),
        ({"name": "dsl", "kind": "inductive"}, "normaliser dsl is transductive, not kind: 'ind"),
        ({"name": "sinkhorn", "kind": "both"}, "is inductive or transductive, not kind: 'both'"),
    ],
)
def test_entries_that_are_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_choice(entry)
    assert message in str(caught.value)


def test_candidates_are_combined_in_order() -> None:
    choice = read_choice({"name": "qbnorm", "k": [1, 2], "beta": [10, 20.0]})
    assert [one.parameters for one in choice.settings()] == [
        {"beta": beta, "k": k} for beta in (10, 20.0) for k in (1, 2)
    ]
    assert setting({"name": "qbnorm"}).title == "qbnorm (beta 20, k 1)"
    assert setting({"name": "dual_is"}).title == "dual_is (b1 0.5025, b2 3)"
    assert setting({"name": "inverted_softmax"}).title == "inverted_softmax"
    assert setting({"name": "none"}) == UNCORRECTED
    assert UNCORRECTED.title == "raw"
    assert setting({"name": "dual_is"}).banks == ("queries", "gallery")
    assert setting({"name": "sinkhorn", "kind": "transductive"}).banks == ()


def test_defaults_are_those_of_the_sources() -> None:
    defaults = {name: find_normaliser(name).settings().model_dump() for name in NORMALISERS}
    assert defaults == {
        "none": {},
        "sinkhorn": {"iterations": 4, "targets": "uniform"},
        "inverted_softmax": {},
        "qbnorm": {"beta": 20.0, "k": 1},
        "dsl": {"temp": 1.0},
        "dual_is": {"b1": 1 / 1.99, "b2": 3.0},
        "dual_dis": {"b1": 1 / 1.99, "b2": 3.0, "k": 1},
        "csls": {"k": 10},
        "nnn": {"alpha": 0.75, "k": 128},
    }
    kinds = {name: one.kinds for name, one in NORMALISERS.items()}
    assert kinds["dsl"] == (TRANSDUCTIVE,)
    assert kinds["sinkhorn"] == kinds["inverted_softmax"] == (INDUCTIVE, TRANSDUCTIVE)


def test_scores_that_cannot_be_normalised() -> None:
    scores = some_scores(8)
    wanted = setting({"name": "dual_is"})
    for change, message in (
        ({"queries": None}, "dual_is is inductive and needs a bank of queries, which is missing"),
        ({"gallery": None}, "needs a bank of gallery"),
        (
            {"gallery": scores.gallery[:, :4]},
            r"gallery for dual_is has shape \(9, 4\).*same 6 items",
        ),
        ({"queries": scores.queries[:0]}, r"queries for dual_is has shape \(0, 6\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            normalise(replace(scores, **change), wanted)
    broken = scores.queries.copy()
    broken[3, 2] = np.nan
    with pytest.raises(NonFiniteScores, match="1 of 11 rows of the bank of queries"):
        normalise(replace(scores, queries=broken), wanted)
    broken = scores.logits.copy()
    broken[:2, 2] = np.inf
    with pytest.raises(NonFiniteScores, match="2 of 8 rows of the scores"):
        normalise(replace(scores, logits=broken), UNCORRECTED)
    for entry in ({"name": "dsl"}, {"name": "sinkhorn", "kind": "transductive"}):
        with pytest.raises(ConfigError, match="compares the scored queries with each other"):
            normalise(replace(scores, logits=scores.logits[:1]), setting(entry))
    with pytest.raises(ConfigError, match="set targets: uniform"):
        normalise(
            replace(scores, targets=np.array([0.0, 1, 1, 1, 1, 1])),
            setting({"name": "sinkhorn", "targets": "annotated"}),
        )
    with pytest.raises(ConfigError, match="qbnorm's beta is on cosines"):
        qbnorm(replace(scores, scale=None), beta=20.0, k=1)


def test_parameters_of_ones_own_may_have_any_name() -> None:
    entry = {"name": "tests.own_modules:with_odd_parameters", "_floor": 2, "json": "no"}
    assert setting(entry).parameters == {"_floor": 2, "json": "no", "model_dump": 3}
    with pytest.raises(ConfigError, match=r"with_odd_parameters._floor is inf: input should be"):
        read_choice({**entry, "_floor": [1.0, math.inf]})
    with pytest.raises(ConfigError, match=r"with_odd_parameters.model_dump is 2.5: input should"):
        read_choice({**entry, "model_dump": 2.5})
    with pytest.raises(ConfigError, match=r"unknown parameter of .* 'parameter_0'; known: _floor"):
        read_choice({**entry, "parameter_0": 1.0})
