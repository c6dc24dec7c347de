"""Data of the query browser: rows as JSON, within a budget of bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.reports.content import BrowsedQuery
from gare_cache.reports.pages.html import script_json

# The whole page has about 10 MB.
MOST_ROW_BYTES = 3_000_000


@dataclass(frozen=True)
class BrowserData:
    """Data of the query browser's script.

    Attributes:
        json: safe inside a ``script`` element.
        num_shown: number of shown queries by direction.
        num_queries: number of all queries by direction.
    """

    json: Markup
    num_shown: Mapping[str, int]
    num_queries: Mapping[str, int]


def worst_first(queries: Sequence[BrowsedQuery]) -> list[BrowsedQuery]:
    """Sort by the head's rank, the worst first; queries without features come last."""
    return sorted(queries, key=lambda query: -(query.head_rank or 0))


def browser_data(
    queries: Sequence[BrowsedQuery],
    captions: Mapping[str, str],
    classes: Mapping[str, str],
    most_bytes: int = MOST_ROW_BYTES,
) -> BrowserData:
    """Pack the worst queries of each direction, as many as the budget allows.

    Args:
        queries: all rows.
        captions: id -> caption, of the items retrieved by v2t queries.
        classes: CSS class by id of the videos with a thumbnail.
        most_bytes: budget of JSON, half of it for each direction.
    """
    rows: dict[str, list[list[object]]] = {}
    totals: dict[str, int] = {}
    for direction in DIRECTIONS:
        of_direction = worst_first([query for query in queries if query.direction == direction])
        totals[direction] = len(of_direction)
        rows[direction] = []
        spent = 0
        for query in of_direction:
            row = _row(query, captions, classes)
            spent += len(json.dumps(row)) + 1
            if spent > most_bytes // len(DIRECTIONS):
                break
            rows[direction].append(row)
    shown = {direction: len(kept) for direction, kept in rows.items()}
    return BrowserData(script_json(rows), shown, totals)


def _row(
    query: BrowsedQuery, captions: Mapping[str, str], classes: Mapping[str, str]
) -> list[object]:
    retrieved = [
        [captions[id_] if query.direction == "v2t" else id_, classes.get(id_, ""), int(is_true)]
        for id_, is_true in zip(query.retrieved, query.is_true, strict=True)
    ]
    thumbnail = classes.get(query.video_id, "")
    ranks = (query.head_rank, query.zero_shot_rank)
    return [query.text, query.video_id, thumbnail, *ranks, retrieved]
