import numpy as np
import pytest

from gare_cache.evaluation.metrics import QueryRanks, retrieval_metrics
from gare_cache.evaluation.missing import ListedQueries, counted_hits, counted_metrics

# Video b has no features, caption c1 has no text features: 3 of 5 queries are scored.
LISTED = ListedQueries(
    query_ids=["a0", "a1", "b0", "c0", "c1"],
    video_ids=["a", "a", "b", "c", "c"],
    missing=[None, None, "video", None, "text"],
    num_items=3,
)
RANKS = QueryRanks(ahead=np.array([0, 1, 0]), ties=np.array([0, 0, 1]))


def test_dropped_queries_leave_the_scores_of_the_others() -> None:
    assert counted_metrics(RANKS, LISTED, "drop") == retrieval_metrics(RANKS)
    counted = counted_hits(RANKS, LISTED, "drop")
    assert counted.hits.tolist() == [1, 0, 0.5]
    assert counted.video_of_query.tolist() == [0, 0, 2]


def test_a_missing_query_is_a_miss_at_every_k_and_stands_behind_the_whole_gallery() -> None:
    metrics = counted_metrics(RANKS, LISTED, "count_as_miss")
    assert metrics["R@1"] == pytest.approx(100 * 1.5 / 5)
    # Also at 50, although the gallery holds 3 items.
    assert metrics["R@5"] == metrics["R@50"] == pytest.approx(100 * 3 / 5)
    # Ranks 1, 2, 1.5 and twice 4.
    assert metrics["MdR"] == 2
    assert metrics["MnR"] == pytest.approx(12.5 / 5)
    counted = counted_hits(RANKS, LISTED, "count_as_miss")
    assert counted.hits.tolist() == [1, 0, 0, 0.5, 0]
    assert counted.video_of_query.tolist() == [0, 0, 1, 2, 2]


def test_the_rules_agree_where_nothing_is_missing() -> None:
    complete = ListedQueries(["x", "y", "z"], ["u", "v", "v"], [None] * 3, 2)
    assert counted_metrics(RANKS, complete, "count_as_miss") == pytest.approx(
        counted_metrics(RANKS, complete, "drop")
    )
