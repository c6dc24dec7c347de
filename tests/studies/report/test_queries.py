import base64
import json

import numpy as np
import pytest

from gare_cache.studies.report.queries import HIT_STEPS, default_pair, outcome_counts, pack_queries
from gare_cache.studies.report.query_table import QueryTable
from gare_cache.studies.result import StudyResult
from tests.studies.report.sample import make_queries, make_study, referring_to


@pytest.fixture(scope="module")
def content() -> StudyResult:
    return make_study()


def make_table(hits, ranks=None) -> QueryTable:
    hits = np.array(hits, float)
    return QueryTable(
        texts=[f"text {number}" for number in range(hits.shape[1])],
        video_ids=[f"video {number}" for number in range(hits.shape[1])],
        variants=[f"variant {number}" for number in range(len(hits))],
        hits=hits,
        ranks=np.ones_like(hits) if ranks is None else np.array(ranks, float),
    )


def test_won_lost_both_neither_by_hand():
    queries = make_table([[1.0, 0.4, 0.6, 0.6, 0.0], [0.0, 0.6, 0.6, 0.4, 0.0]])
    assert outcome_counts(queries, 0, 1) == (2, 1, 1, 1)
    assert outcome_counts(queries, 1, 0) == (1, 2, 1, 1)
    assert outcome_counts(queries, 0, 0) == (0, 0, 4, 1)


def test_queries_that_one_of_the_two_has_no_features_for_are_left_out():
    ranks = [[1, 1, np.nan], [1, np.nan, 2], [1, 1, 1]]
    queries = make_table([[1, 1, 0], [0, 0, 0], [0, 0, 0]], ranks)
    assert outcome_counts(queries, 0, 1) == (1, 0, 0, 0)
    assert outcome_counts(queries, 0, 2) == (2, 0, 0, 0)


def test_shares_that_differ_by_rounding_alone_are_equal():
    tenth = make_table([[0.1 + 0.2], [0.3]])
    assert tenth.hits[0, 0] != tenth.hits[1, 0]
    assert outcome_counts(tenth, 0, 1) == (0, 0, 1, 0)


def test_the_default_pair_is_the_best_against_the_reference(content):
    assert default_pair(content) == (content.ranked[0].name, "none")
    best_is_reference = referring_to(content, content.ranked[0].name)
    assert default_pair(best_is_reference) == (content.ranked[1].name, content.ranked[0].name)
    failed = make_study(seeds=(0,), failed=[(0, 0, "x")])
    assert default_pair(failed) == (failed.ranked[0].name, failed.ranked[1].name)


def test_what_is_packed_is_what_was_measured(content):
    tables = make_queries(content)
    packed = json.loads(pack_queries(content, tables, {"video3": "v7"}).json)
    assert packed["variants"] == [variant.name for variant in content.rows]
    for direction, queries in tables.items():
        found = packed["directions"][direction]
        place = {text: row for row, text in enumerate(queries.texts)}
        rows = [place[text] for text, _, _ in found["queries"]]
        assert sorted(rows) == list(range(len(queries.texts)))
        for _, video, picture in found["queries"]:
            assert picture == ("v7" if video == "video3" else "")
        for variant in range(len(packed["variants"])):
            hits = np.frombuffer(base64.b64decode(found["hits"][variant]), "<u2")
            np.testing.assert_allclose(hits / HIT_STEPS, queries.hits[variant, rows], atol=1e-5)
            ranks = np.frombuffer(base64.b64decode(found["ranks"][variant]), "<f4")
            np.testing.assert_array_equal(ranks, queries.ranks[variant, rows].astype("f4"))
            for other in range(len(packed["variants"])):
                counts = outcome_counts(queries, variant, other)
                assert tuple(found["counts"][variant][other]) == counts


def test_beyond_the_budget_queries_that_differ_most_stay_and_counts_are_over_all(content):
    queries = make_table(
        [[0, 1, 0.5, 0, 0], [0, 0, 0.5, 0.5, 0]], [[1, 1, 1, 1, 1], [1, 1, 9, 1, np.nan]]
    )
    small = pack_queries(content, {"t2v": queries}, {}, 160)
    packed = json.loads(small.json)["directions"]["t2v"]
    assert [text for text, _, _ in packed["queries"]] == ["text 1", "text 3", "text 2"]
    assert (small.num_shown, small.num_queries) == ({"t2v": 3}, {"t2v": 5})
    assert list(small.video_ids) == ["video 1", "video 3", "video 2"]
    assert packed["counts"][0][1] == [1, 1, 1, 1]


def test_twenty_thousand_queries_of_twenty_variants_keep_to_the_budget(content):
    generator = np.random.default_rng(0)
    hits = generator.integers(0, 6, (20, 20_000)) / 5
    large = make_table(hits, 1 + 9 * (1 - hits))
    packed = pack_queries(content, {"t2v": large}, {})
    assert 3_000_000 < len(packed.json) < 3_600_000
    assert packed.num_shown["t2v"] < 20_000
    fitting = make_table(hits[:, :1000], 1 + 9 * (1 - hits[:, :1000]))
    both = {"t2v": fitting, "v2t": fitting}
    assert pack_queries(content, both, {}).num_shown == {"t2v": 1000, "v2t": 1000}
