"""Ranks of a scored split -> scores with their intervals, and the tables of ranks and items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gare_cache.data.split import FeatureSplit
from gare_cache.evaluation.metrics import DIRECTIONS, QueryRanks
from gare_cache.evaluation.missing import MISSING_RULES, counted_hits, counted_metrics
from gare_cache.evaluation.protocol import ProtocolSplit
from gare_cache.evaluation.retrieved import Items, top_texts, top_videos
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.evaluation.significance import paired_difference, recall_interval
from gare_cache.evaluation.similarity import Similarity
from gare_cache.heads.retrieval import RetrievalHead, build_head

ZERO_SHOT = "zero_shot"
HEAD = "head"
METHOD_TITLES = {ZERO_SHOT: "zero shot", HEAD: "head"}
# How many items a query keeps in retrieved.parquet.
MOST_RETRIEVED = 10
_BOOTSTRAP_SEED = 0
Ranks = Mapping[str, Mapping[str, QueryRanks]]


def normalised_method(title: str) -> str:
    """Return the name in ranks.parquet of the head after a normaliser."""
    return f"{HEAD}, {title}"


def zero_shot_head(split: FeatureSplit) -> RetrievalHead:
    """Return the head without parameters: the cosine of the sentence and the mean frame."""
    head = build_head(
        dim=split.text.shape[1],
        max_frames=split.frames.shape[1],
        aggregator={"name": "mean"},
        pooling={"name": "mean"},
        gap=None,
    )
    return head.to(split.text.device).eval()


def retrieved_items(
    similarity: Similarity, split: ProtocolSplit, settings: EvaluateSettings
) -> dict[str, Items]:
    """Return by direction the first items that each query finds, as many as are kept."""
    return {
        "t2v": top_videos(similarity, MOST_RETRIEVED),
        "v2t": top_texts(
            similarity, split.video_of_text, MOST_RETRIEVED, convention=settings.v2t_convention
        ),
    }


def split_metrics(ranks: Ranks, split: ProtocolSplit, settings: EvaluateSettings) -> dict[str, Any]:
    """Score all methods under the protocol, and under the other rule where queries are missing.

    Args:
        ranks: by method and direction.
        split: what was ranked.
        settings: the protocol.

    Returns:
        The content of ``metrics.json`` but for what names the run.
    """
    features = split.features
    missing = any(not listed.found.all() for listed in split.listed.values())
    other = next(rule for rule in MISSING_RULES if rule != settings.missing)
    return {
        "split": settings.split,
        "captions": settings.captions,
        "v2t_convention": settings.v2t_convention,
        "coverage": features.coverage,
        "num_texts": len(features.caption_ids),
        "num_videos": len(features.video_ids),
        **_counted(ranks, split, settings, settings.missing),
        "alternative": _counted(ranks, split, settings, other) if missing else None,
    }


def _counted(
    ranks: Ranks, split: ProtocolSplit, settings: EvaluateSettings, rule: str
) -> dict[str, Any]:
    return {
        "missing": rule,
        "methods": {name: score_ranks(r, split, settings, rule) for name, r in ranks.items()},
        "difference": score_differences(ranks[HEAD], ranks[ZERO_SHOT], split, settings, rule),
    }


def score_ranks(
    ranks: Mapping[str, QueryRanks], split: ProtocolSplit, settings: EvaluateSettings, rule: str
) -> dict[str, Any]:
    """Score one method in both directions.

    Args:
        ranks: by direction.
        split: what was ranked.
        settings: the protocol.
        rule: what becomes of queries without features: ``drop`` or ``count_as_miss``.

    Returns:
        By direction: metrics, the interval of R@1 and counts.
    """
    scores: dict[str, Any] = {}
    for direction in DIRECTIONS:
        found, listed = ranks[direction], split.listed[direction]
        counted = counted_hits(found, listed, rule)
        low, high = recall_interval(
            counted.hits, counted.video_of_query, resamples=settings.resamples, seed=_BOOTSTRAP_SEED
        )
        scores[direction] = {
            **counted_metrics(found, listed, rule),
            "R@1 low": low,
            "R@1 high": high,
            "queries": len(counted.hits),
            "queries with features": len(found.ahead),
            "queries listed": len(listed.query_ids),
            "items": _num_items(direction, split, settings),
            "items listed": listed.num_items,
            "tied queries": int((found.ties > 0).sum()),
        }
    return scores


def _num_items(direction: str, split: ProtocolSplit, settings: EvaluateSettings) -> int:
    if direction == "t2v":
        return len(split.features.video_ids)
    if settings.v2t_convention == "best_caption_group":
        return int(split.listed["v2t"].found.sum())
    return len(split.features.caption_ids)


def score_differences(
    ranks: Mapping[str, QueryRanks],
    others: Mapping[str, QueryRanks],
    split: ProtocolSplit,
    settings: EvaluateSettings,
    rule: str,
) -> dict[str, Any]:
    """Compare R@1 of two methods on the same queries: difference with a paired 95 % interval."""
    differences = {}
    for direction in DIRECTIONS:
        listed = split.listed[direction]
        own, other = (counted_hits(found[direction], listed, rule) for found in (ranks, others))
        difference, low, high = paired_difference(
            own.hits,
            other.hits,
            own.video_of_query,
            resamples=settings.resamples,
            seed=_BOOTSTRAP_SEED,
        )
        differences[direction] = {
            "R@1": difference,
            "R@1 low": low,
            "R@1 high": high,
            "videos": len(np.unique(own.video_of_query)),
        }
    return differences


def ranks_table(ranks: Ranks, split: ProtocolSplit) -> pa.Table:
    """Lay out all listed queries; one without features has null for what was not measured."""
    tables = []
    for method, by_direction in ranks.items():
        for direction, found in by_direction.items():
            listed = split.listed[direction]
            columns = {
                "method": [method] * len(listed.query_ids),
                "direction": [direction] * len(listed.query_ids),
                "query_id": list(listed.query_ids),
                "video_id": list(listed.video_ids),
                "missing": pa.array(listed.missing, pa.string()),
                "ahead": _where_found(found.ahead, listed.found),
                "ties": _where_found(found.ties, listed.found),
                "rank": _where_found(found.expected, listed.found),
            }
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def _where_found(values: npt.NDArray[Any], found: npt.NDArray[np.bool_]) -> pa.Array:
    filled = np.zeros(len(found), dtype=values.dtype)
    filled[found] = values
    return pa.array(filled, mask=~found)


def retrieved_table(
    retrieved: Mapping[str, Mapping[str, Items]],
    similarities: Mapping[str, Similarity],
    split: ProtocolSplit,
) -> pa.Table:
    """Lay out the first items of every query that has features, with their scores."""
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
                "items": [[item_ids[item] for item in found] for found in items],
                "scores": list(scores[rows[:, None], items]),
            }
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)
