"""The ranks of a study's runs -> how each variant answers each query."""

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
    """How each variant answers each query of one direction.

    Attributes:
        texts: (Q) caption, or id of the video that is the query.
        video_ids: (Q) each query's own video.
        variants: (N) names, in the study's order; those without a finished run are left out.
        hits: (N, Q) share of the runs that find the true item first, a tie counted by its chance.
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
        ranks: of ``gare_cache.studies.results.ranks_table``.
        split: the split that is shown.
        names: of the variants, in the study's order.
        captions: sentence by caption id; a query without one is named by its id.

    Returns:
        One table a direction that has ranks.
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
    """Average hits and ranks over seeds; a query that has no rank in a run is no hit there.

    Queries without a rank in every run, those without features, are left out.
    """
    part = part.filter(pc.is_valid(part["ahead"]))
    variant, variant_ids = _codes(part, "variant")
    query, query_ids = _codes(part, "query_id")
    seeds = part["seed"].to_numpy()
    ranks = QueryRanks(part["ahead"].to_numpy(), part["ties"].to_numpy())
    found = [name for name in names if name in variant_ids]
    shape = (len(found), len(query_ids))
    hits, mean_ranks = np.zeros(shape), np.full(shape, np.nan)
    for place, name in enumerate(found):
        own = variant == variant_ids.index(name)
        num_runs = len(np.unique(seeds[own]))
        counts = np.bincount(query[own], minlength=shape[1])
        hits[place] = np.bincount(query[own], ranks.hits(1)[own], shape[1]) / num_runs
        sums = np.bincount(query[own], ranks.expected[own], shape[1])
        np.divide(sums, counts, out=mean_ranks[place], where=counts > 0)
    first = np.unique(query, return_index=True)[1]
    return QueryTable(
        texts=[captions.get(id_, id_) if direction == "t2v" else id_ for id_ in query_ids],
        video_ids=part["video_id"].take(pa.array(first)).to_pylist(),
        variants=found,
        hits=hits,
        ranks=mean_ranks,
    )


def _codes(part: pa.Table, column: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Number a column's values in the order of their ids: (rows,) codes and the ids."""
    values = part[column].cast(pa.string())
    ids = sorted(pc.unique(values).to_pylist())
    codes = pc.index_in(values, value_set=pa.array(ids, pa.string()))
    return codes.to_numpy().astype(np.int64), ids
