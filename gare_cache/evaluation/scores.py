"""From the ranks of a split to scores with intervals, and the tables of ranks and top items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gare_cache.data.split import FeatureSplit
from gare_cache.evaluation.comparison.differences import compare_recalls
from gare_cache.evaluation.metrics import DIRECTIONS, QueryRanks, known_recalls, retrieval_metrics
from gare_cache.evaluation.missing import MISSING_RULES, counted_hits, counted_metrics
from gare_cache.evaluation.protocol import ProtocolSplit
from gare_cache.evaluation.results import (
    CountedResult,
    DirectionResult,
    PairedDifference,
    adjusted_pairs,
)
from gare_cache.evaluation.retrieved import Items, top_texts, top_videos
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.evaluation.significance import recall_interval
from gare_cache.evaluation.similarity import Similarity
from gare_cache.heads.retrieval import RetrievalHead, build_head

ZERO_SHOT = "zero_shot"
HEAD = "head"
METHOD_TITLES = {ZERO_SHOT: "zero shot", HEAD: "head"}
# How many top items of a query are kept in retrieved.parquet.
MOST_RETRIEVED = 10
_BOOTSTRAP_SEED = 0
Ranks = Mapping[str, Mapping[str, QueryRanks]]


def normalised_method(title: str) -> str:
    """Return the method name in ranks.parquet of the head followed by a normaliser."""
    return f"{HEAD}, {title}"


def zero_shot_head(split: FeatureSplit, *, frame_norm: bool = False) -> RetrievalHead:
    """Return the head without parameters: the cosine of the sentence and the mean frame.

    Args:
        split: the features.
        frame_norm: scale every frame to length 1 before the mean, as CLIP4Clip does.
    """
    head = build_head(
        dim=split.text.shape[1],
        max_frames=split.frames.shape[1],
        aggregator={"name": "mean"},
        pooling={"name": "mean", "frame_norm": frame_norm},
        gap=None,
    )
    return head.to(split.text.device).eval()


def retrieved_items(
    similarity: Similarity, split: ProtocolSplit, settings: EvaluateSettings
) -> dict[str, Items]:
    """Return each query's top items by direction, at most ``MOST_RETRIEVED``."""
    return {
        "t2v": top_videos(similarity, MOST_RETRIEVED),
        "v2t": top_texts(
            similarity, split.video_of_text, MOST_RETRIEVED, convention=settings.v2t_convention
        ),
    }


def score_split_ranks(
    ranks: Ranks, split: ProtocolSplit, settings: EvaluateSettings
) -> tuple[CountedResult, CountedResult | None]:
    """Score all methods under the protocol's rule, and the other rule if queries are missing.

    Args:
        ranks: by method and direction.
        split: the ranked split.
        settings: the protocol.
    """
    missing = any(not listed.has_features.all() for listed in split.listed.values())
    other = next(rule for rule in MISSING_RULES if rule != settings.missing)
    headline = _counted(ranks, split, settings, settings.missing)
    return headline, _counted(ranks, split, settings, other) if missing else None


def _counted(
    ranks: Ranks, split: ProtocolSplit, settings: EvaluateSettings, rule: str
) -> CountedResult:
    return CountedResult(
        missing=rule,
        methods={name: score_ranks(r, split, settings, rule) for name, r in ranks.items()},
        difference=score_differences(ranks[HEAD], ranks[ZERO_SHOT], split, settings, rule),
    )


def score_ranks(
    ranks: Mapping[str, QueryRanks], split: ProtocolSplit, settings: EvaluateSettings, rule: str
) -> dict[str, DirectionResult]:
    """Score one method in both directions.

    Args:
        ranks: by direction.
        split: the ranked split.
        settings: the protocol.
        rule: how queries without features count: ``drop`` or ``count_as_miss``.
    """
    results = {}
    for direction in DIRECTIONS:
        of_direction, listed = ranks[direction], split.listed[direction]
        counted = counted_hits(of_direction, listed, rule)
        low, high = recall_interval(
            counted.hits, counted.video_of_query, resamples=settings.resamples, seed=_BOOTSTRAP_SEED
        )
        results[direction] = DirectionResult(
            metrics=known_recalls(
                counted_metrics(of_direction, listed, rule), _num_items(direction, split, settings)
            ),
            low=low,
            high=high,
            queries=len(counted.hits),
            queries_with_features=len(of_direction.ahead),
            queries_listed=len(listed.query_ids),
            items=_num_items(direction, split, settings),
            items_listed=listed.num_items,
            tied=int((of_direction.ties > 0).sum()),
        )
    return results


def _num_items(direction: str, split: ProtocolSplit, settings: EvaluateSettings) -> int:
    if direction == "t2v":
        return len(split.features.video_ids)
    if settings.v2t_convention == "best_caption_group":
        return int(split.listed["v2t"].has_features.sum())
    return len(split.features.caption_ids)


def summarise(
    ranks: QueryRanks,
    video_of_query: npt.NDArray[np.int64],
    *,
    num_items: int,
    resamples: int,
) -> DirectionResult:
    """Score one direction in which every query has features.

    Args:
        ranks: of Q queries.
        video_of_query: (Q,) the video each query belongs to.
        num_items: size of the gallery.
        resamples: bootstrap resamples of the videos.
    """
    low, high = recall_interval(
        ranks.hits(1), video_of_query, resamples=resamples, seed=_BOOTSTRAP_SEED
    )
    queries = len(ranks.ahead)
    return DirectionResult(
        metrics=known_recalls(retrieval_metrics(ranks), num_items),
        low=low,
        high=high,
        queries=queries,
        queries_with_features=queries,
        queries_listed=queries,
        items=num_items,
        items_listed=num_items,
        tied=int((ranks.ties > 0).sum()),
    )


def score_differences(
    ranks: Mapping[str, QueryRanks],
    others: Mapping[str, QueryRanks],
    split: ProtocolSplit,
    settings: EvaluateSettings,
    rule: str,
) -> dict[str, PairedDifference]:
    """Compare R@1 of two methods on the same queries, by direction; p is adjusted for the two."""
    differences = {}
    for direction in DIRECTIONS:
        listed = split.listed[direction]
        hits, other_hits = (
            counted_hits(of_method[direction], listed, rule) for of_method in (ranks, others)
        )
        differences[direction] = paired_hits(
            hits.hits, other_hits.hits, hits.video_of_query, resamples=settings.resamples
        )
    return adjusted_pairs(differences)


def paired_hits(
    hits: npt.NDArray[np.float64],
    other_hits: npt.NDArray[np.float64],
    video_of_query: npt.NDArray[np.int64],
    *,
    resamples: int,
) -> PairedDifference:
    """Compare the hits of two methods on the same queries; p is not adjusted.

    Args:
        hits: (Q,) of the method.
        other_hits: (Q,) of the other, in the same order.
        video_of_query: (Q,) the video each query belongs to.
        resamples: bootstrap resamples of the videos.
    """
    of = compare_recalls(
        hits, other_hits, video_of_query, resamples=resamples, seed=_BOOTSTRAP_SEED
    )
    videos = len(np.unique(video_of_query))
    return PairedDifference(of.points, of.low, of.high, videos, of.p_value, p_holm=of.p_value)


def ranks_table(ranks: Ranks, split: ProtocolSplit) -> pa.Table:
    """Return a table of all listed queries; one without features has null ranks."""
    tables = []
    for method, by_direction in ranks.items():
        for direction, of_direction in by_direction.items():
            listed = split.listed[direction]
            columns = {
                "method": [method] * len(listed.query_ids),
                "direction": [direction] * len(listed.query_ids),
                "query_id": list(listed.query_ids),
                "video_id": list(listed.video_ids),
                "missing": pa.array(listed.missing, pa.string()),
                "ahead": _nullable(of_direction.ahead, listed.has_features),
                "ties": _nullable(of_direction.ties, listed.has_features),
                "rank": _nullable(of_direction.expected, listed.has_features),
            }
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def _nullable(values: npt.NDArray[Any], has_features: npt.NDArray[np.bool_]) -> pa.Array:
    filled = np.zeros(len(has_features), dtype=values.dtype)
    filled[has_features] = values
    return pa.array(filled, mask=~has_features)


def retrieved_table(
    retrieved: Mapping[str, Mapping[str, Items]],
    similarities: Mapping[str, Similarity],
    split: ProtocolSplit,
) -> pa.Table:
    """Return a table of the top items, with scores, of every query that has features."""
    features = split.features
    queries = {
        "t2v": (np.arange(len(features.caption_ids)), features.caption_ids, features.video_ids),
        "v2t": (np.unique(split.video_of_text), features.video_ids, features.caption_ids),
    }
    tables = []
    for method, by_direction in retrieved.items():
        for direction, items in by_direction.items():
            rows, query_ids, item_ids = queries[direction]
            scores = similarities[method] if direction == "t2v" else similarities[method].T
            columns = {
                "method": [method] * len(rows),
                "direction": [direction] * len(rows),
                "query_id": [query_ids[row] for row in rows],
                "items": [[item_ids[item] for item in of_query] for of_query in items],
                "scores": list(scores[rows[:, None], items]),  # Q x (k,)
            }
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)
