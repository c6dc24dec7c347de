"""Metrics of a split in which some queries have no features: dropped, or counted as misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gare_cache.evaluation.metrics import RECALL_AT, QueryRanks, retrieval_metrics

# drop: over the queries that have features; count_as_miss: over all listed queries.
MISSING_RULES = ("drop", "count_as_miss")
# Columns of ranks.parquet and retrieved.parquet that are read.
RANKS = pa.schema(
    [
        *((name, pa.string()) for name in ("method", "direction", "query_id", "video_id")),
        ("ahead", pa.int64()),
        ("ties", pa.int64()),
        ("rank", pa.float64()),
    ]
)
RETRIEVED = pa.schema(
    [
        *((name, pa.string()) for name in ("method", "direction", "query_id")),
        ("items", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class ListedQueries:
    """Every query that a split lists in one direction, those without features included.

    Attributes:
        query_ids: N ids.
        video_ids: N ids of the queries' videos.
        missing: for each query ``"video"`` or ``"text"``, whichever features it lacks, or None.
            The queries with None are the scored ones, in the same order.
        num_items: items of the complete gallery, including those without features.
    """

    query_ids: Sequence[str]
    video_ids: Sequence[str]
    missing: Sequence[str | None]
    num_items: int

    @property
    def has_features(self) -> npt.NDArray[np.bool_]:
        """(N,) True where a query has features."""
        return np.array([reason is None for reason in self.missing], dtype=bool)

    @property
    def missed_rank(self) -> int:
        """Rank of a query without features if it counts as a miss: behind the whole gallery."""
        return self.num_items + 1

    def video_numbers(self) -> npt.NDArray[np.int64]:
        """(N,) number of each query's video; queries of one video share it."""
        number = {id_: place for place, id_ in enumerate(dict.fromkeys(self.video_ids))}
        return np.array([number[id_] for id_ in self.video_ids], dtype=np.int64)


@dataclass(frozen=True)
class DirectionRanks:
    """Ranks of the counted queries in one direction; (Q,) each.

    Attributes:
        query_ids: in the order of the table.
        video_ids: each query's video.
        ranks: a query counted as a miss has the complete gallery ahead of it.
    """

    query_ids: npt.NDArray[np.str_]
    video_ids: npt.NDArray[np.str_]
    ranks: QueryRanks

    def hits_by_query(self) -> dict[str, tuple[float, str]]:
        """Return each query's hit at 1 and its video."""
        hits = self.ranks.hits(1).tolist()
        pairs = zip(hits, self.video_ids.tolist(), strict=True)
        return dict(zip(self.query_ids.tolist(), pairs, strict=True))


def counted_ranks(table: pa.Table, direction: str, *, num_items: int, rule: str) -> DirectionRanks:
    """Read the ranks of the queries counted under a rule from rows of ``ranks.parquet``.

    Args:
        table: rows of one method: ``direction``, ``query_id``, ``video_id``, ``ahead`` and
            ``ties``, null in the last two where a query has no features.
        direction: ``t2v`` or ``v2t``.
        num_items: items of the complete gallery.
        rule: one of ``MISSING_RULES``.
    """
    part = table.filter(pc.equal(table["direction"], direction))
    if rule == "drop":
        part = part.filter(pc.is_valid(part["ahead"]))
    behind = max(num_items, *RECALL_AT)  # a miss at every K, even if K exceeds the gallery
    return DirectionRanks(
        np.array(part["query_id"].to_pylist(), dtype=str),
        np.array(part["video_id"].to_pylist(), dtype=str),
        QueryRanks(
            pc.fill_null(part["ahead"], behind).to_numpy(),
            pc.fill_null(part["ties"], 0).to_numpy(),
        ),
    )


@dataclass(frozen=True)
class CountedHits:
    """Hits at 1 of the queries counted under a rule, (Q,), and the video of each, (Q,)."""

    hits: npt.NDArray[np.float64]
    video_of_query: npt.NDArray[np.int64]


def counted_hits(ranks: QueryRanks, listed: ListedQueries, rule: str) -> CountedHits:
    """Return the hits at 1 of the queries with features, and misses for the others if they count.

    Args:
        ranks: of the queries with features, in the order of ``listed``.
        listed: all queries.
        rule: one of ``MISSING_RULES``.
    """
    videos = listed.video_numbers()
    if rule == "drop":
        return CountedHits(ranks.hits(1), videos[listed.has_features])
    return CountedHits(_with_misses(ranks.hits(1), listed, 0.0), videos)


def counted_metrics(ranks: QueryRanks, listed: ListedQueries, rule: str) -> dict[str, float]:
    """Return recalls and the median and mean rank under one rule.

    ``count_as_miss`` counts a query without features as a miss at every K, even if K exceeds the
    gallery, and as rank ``num_items + 1`` in MdR and MnR. With 2 queries, one at rank 1 and one
    without features, and a gallery of 10, R@1 is 50 and MnR is 6.

    Args:
        ranks: of the queries with features, in the order of ``listed``.
        listed: all queries.
        rule: one of ``MISSING_RULES``.
    """
    if rule == "drop":
        return retrieval_metrics(ranks)
    expected = _with_misses(ranks.expected, listed, float(listed.missed_rank))
    recalls = {
        f"R@{k}": 100 * float(_with_misses(ranks.hits(k), listed, 0.0).mean()) for k in RECALL_AT
    }
    return {**recalls, "MdR": float(np.median(expected)), "MnR": float(expected.mean())}


def _with_misses(
    values: npt.NDArray[np.float64], listed: ListedQueries, of_missing: float
) -> npt.NDArray[np.float64]:
    counted = np.full(len(listed.query_ids), of_missing)
    counted[listed.has_features] = values
    return counted
