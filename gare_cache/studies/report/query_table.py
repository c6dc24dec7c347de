"""Hits and mean ranks of each variant on each query, averaged over its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gare_cache.evaluation.metrics import DIRECTIONS, QueryRanks


@dataclass(frozen=True)
class QueryTable:
    """Hits and mean ranks of N variants on the Q queries of one direction.

    Attributes:
        texts: (Q) caption, or id of the video that is the query.
        video_ids: (Q) each query's video.
        variants: (N) names, in the study's order, without those that have no finished run.
        hits: (N, Q) share of the runs that rank the true item first; a tie counts by its chance.
        ranks: (N, Q) mean rank over the runs; NaN where a query has no features.
    """

    texts: Sequence[str]
    video_ids: Sequence[str]
    variants: Sequence[str]
    hits: npt.NDArray[np.float64]
    ranks: npt.NDArray[np.float64]


def query_tables(
    ranks: pa.Table, split: str, names: Sequence[str], captions: Mapping[str, str]
) -> dict[str, QueryTable]:
    """Average the ranks of all runs by variant and query.

    Args:
        ranks: as returned by ``gare_cache.studies.results.ranks_table``.
        split: the split that is shown.
        names: of the variants, in the study's order.
        captions: sentence by caption id; a query without one is named by its id.

    Returns:
        A table for each direction that has ranks.
    """
    of_split = ranks.filter(pc.equal(ranks["split"], split))
    return {
        direction: _query_table(part, direction, names, captions)
        for direction in DIRECTIONS
        if (part := of_split.filter(pc.equal(of_split["direction"], direction))).num_rows
    }


def _query_table(
    part: pa.Table, direction: str, names: Sequence[str], captions: Mapping[str, str]
) -> QueryTable:
    """Average hits and ranks over seeds; a query without a rank in a run is a miss there.

    Queries without a rank in all runs, those without features, are left out.
    """
    part = part.filter(pc.is_valid(part["ahead"]))
    variant, variant_ids = _codes(part, "variant")
    query, query_ids = _codes(part, "query_id")
    seeds = part["seed"].to_numpy()
    ranks = QueryRanks(part["ahead"].to_numpy(), part["ties"].to_numpy())
    present = [name for name in names if name in variant_ids]
    shape = (len(present), len(query_ids))
    hits, mean_ranks = np.zeros(shape), np.full(shape, np.nan)
    for place, name in enumerate(present):
        rows = variant == variant_ids.index(name)
        num_runs = len(np.unique(seeds[rows]))
        counts = np.bincount(query[rows], minlength=shape[1])
        hits[place] = np.bincount(query[rows], ranks.hits(1)[rows], shape[1]) / num_runs
        sums = np.bincount(query[rows], ranks.expected[rows], shape[1])
        np.divide(sums, counts, out=mean_ranks[place], where=counts > 0)
    first = np.unique(query, return_index=True)[1]
    return QueryTable(
        texts=[captions.get(id_, id_) if direction == "t2v" else id_ for id_ in query_ids],
        video_ids=part["video_id"].take(pa.array(first)).to_pylist(),
        variants=present,
        hits=hits,
        ranks=mean_ranks,
    )


def _codes(part: pa.Table, column: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Number a column's values in the order of their ids: (rows,) codes and the ids."""
    values = part[column].cast(pa.string())
    ids = sorted(pc.unique(values).to_pylist())
    codes = pc.index_in(values, value_set=pa.array(ids, pa.string()))
    return codes.to_numpy().astype(np.int64), ids
