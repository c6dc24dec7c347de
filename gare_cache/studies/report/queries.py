"""Queries won and lost between every pair of variants, counted and packed for the page."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from gare_cache.reports.pages.html import script_json
from gare_cache.studies.report.query_table import QueryTable
from gare_cache.studies.result import StudyResult

# The whole page has about 10 MB, of which thumbnails take 5 MB.
MOST_QUERY_BYTES = 3_500_000
# Shares of up to 6, 8 or 10 seeds are multiples of 1 / 60,000, and it fits 16 bits.
HIT_STEPS = 60_000


@dataclass(frozen=True)
class PackedQueries:
    """Data of the page's script.

    Attributes:
        json: safe inside a ``script`` element.
        num_shown: number of listed queries by direction; the counts are over all queries.
        num_queries: number of all queries by direction.
        video_ids: videos of the listed queries, in order of priority.
    """

    json: Markup
    num_shown: Mapping[str, int]
    num_queries: Mapping[str, int]
    video_ids: Sequence[str]


def outcome_counts(queries: QueryTable, first: int, second: int) -> tuple[int, int, int, int]:
    """Count the queries that variant ``first`` answers at rank 1 more often than ``second``.

    A query is *won* if more of the first's runs rank the true item first, *lost* if fewer do,
    answered by *both* if equally many do and at least one, and by *neither* if none does. Queries
    for which either has no features are left out.

    Args:
        queries: one direction.
        first: row of the variant that wins or loses.
        second: row of the other.

    Returns:
        Queries won, lost, answered by both, by neither; their sum is the number of queries
        that both have features for.
    """
    ranked = ~np.isnan(queries.ranks[[first, second]]).any(axis=0)
    ours, theirs = (_steps(queries.hits[place][ranked]) for place in (first, second))
    equal = ours == theirs
    return (
        int((ours > theirs).sum()),
        int((ours < theirs).sum()),
        int((equal & (ours > 0)).sum()),
        int((equal & (ours == 0)).sum()),
    )


def pack_queries(
    result: StudyResult,
    tables: Mapping[str, QueryTable],
    classes: Mapping[str, str],
    most_bytes: int = MOST_QUERY_BYTES,
) -> PackedQueries:
    """Pack the counts of all pairs and, within a budget, the queries with the largest differences.

    Args:
        result: the study.
        tables: by direction.
        classes: CSS class by id of the videos with a thumbnail.
        most_bytes: budget of packed queries, half of it for each direction.
    """
    directions: dict[str, object] = {}
    shown: dict[str, int] = {}
    wanted: list[str] = []
    for direction, queries in tables.items():
        rows = _within(queries, most_bytes // max(1, len(tables)))
        shown[direction] = len(rows)
        wanted += [queries.video_ids[row] for row in rows]
        directions[direction] = _packed(queries, rows, classes)
    names = next((queries.variants for queries in tables.values()), ())
    first, second = default_pair(result)
    packed = {
        "variants": list(names),
        "chosen": [first, second],
        "steps": HIT_STEPS,
        "directions": directions,
    }
    totals = {name: len(queries.texts) for name, queries in tables.items()}
    return PackedQueries(script_json(packed), shown, totals, list(dict.fromkeys(wanted)))


def default_pair(result: StudyResult) -> tuple[str, str]:
    """Return the names of the best variant other than the reference, and of the reference.

    If the reference has no finished run, they are the two best; an absent one is empty.
    """
    ranked = [variant.name for variant in result.ranked if variant.runs]
    others = [name for name in ranked if name != result.reference]
    if len(others) < len(ranked):
        return (others or [""])[0], result.reference
    first, second = [*others, "", ""][:2]
    return first, second


def _steps(hits: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.rint(hits * HIT_STEPS).astype(np.int64)


def _within(queries: QueryTable, most_bytes: int) -> list[int]:
    """Choose as many queries as the budget allows, the largest differences first."""
    if not queries.texts:
        return []
    ranks = np.where(np.isnan(queries.ranks), 0.0, queries.ranks)
    order = np.lexsort((-np.ptp(ranks, axis=0), -np.ptp(_steps(queries.hits), axis=0)))
    # Base64 of 2 bytes for hits and 4 for rank per variant.
    of_variants = 8 * len(queries.variants)
    kept: list[int] = []
    spent = 0
    for row in order.tolist():
        spent += of_variants + len(json.dumps([queries.texts[row], queries.video_ids[row]])) + 8
        if spent > most_bytes:
            break
        kept.append(row)
    return kept


def _packed(queries: QueryTable, rows: Sequence[int], classes: Mapping[str, str]) -> object:
    places = range(len(queries.variants))
    kept = list(rows)
    return {
        "queries": [
            [queries.texts[row], queries.video_ids[row], classes.get(queries.video_ids[row], "")]
            for row in rows
        ],
        "hits": [_base64(_steps(hits[kept]).astype("<u2")) for hits in queries.hits],
        "ranks": [_base64(ranks[kept].astype("<f4")) for ranks in queries.ranks],
        "counts": [[outcome_counts(queries, row, other) for other in places] for row in places],
    }


def _base64(values: npt.NDArray[np.generic]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
