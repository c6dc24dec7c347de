"""The query browser's data: rows as JSON and thumbnails as CSS, within a budget of bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.reports.content import BrowsedQuery
from gare_cache.reports.pages.html import script_json

# Of the page as a whole about 10 MB; base64 makes 4 bytes of 3.
MOST_ROW_BYTES = 3_000_000


@dataclass(frozen=True)
class BrowserData:
    """What the browser's script reads.

    Attributes:
        json: safe inside a ``script`` element.
        num_shown: by direction.
        num_queries: by direction, those left out included.
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
        captions: id -> caption, of what v2t queries find.
        classes: CSS class by video id, of those with a thumbnail.
        most_bytes: of JSON, half of it for either direction.
    """
    rows: dict[str, list[list[object]]] = {}
    totals: dict[str, int] = {}
    for direction in DIRECTIONS:
        own = worst_first([query for query in queries if query.direction == direction])
        totals[direction] = len(own)
        rows[direction] = []
        spent = 0
        for query in own:
            row = _row(query, captions, classes)
            spent += len(json.dumps(row)) + 1
            if spent > most_bytes // len(DIRECTIONS):
                break
            rows[direction].append(row)
    shown = {direction: len(found) for direction, found in rows.items()}
    return BrowserData(script_json(rows), shown, totals)


def _row(
    query: BrowsedQuery, captions: Mapping[str, str], classes: Mapping[str, str]
) -> list[object]:
    found = [
        [captions[id_] if query.direction == "v2t" else id_, classes.get(id_, ""), int(is_true)]
        for id_, is_true in zip(query.retrieved, query.is_true, strict=True)
    ]
    own = classes.get(query.video_id, "")
    return [query.text, query.video_id, own, query.head_rank, query.zero_shot_rank, found]
