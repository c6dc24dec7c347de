"""The query browser's data: rows as JSON and thumbnails as CSS, within a budget of bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.reports.content import BrowsedQuery

# Of the page as a whole about 10 MB; base64 makes 4 bytes of 3.
MOST_ROW_BYTES = 3_000_000
MOST_PICTURE_BYTES = 5_000_000


@dataclass(frozen=True)
class Album:
    """Thumbnails that a page embeds once each.

    Attributes:
        classes: video id -> CSS class that shows its thumbnail.
        style: the rules of these classes.
        num_left_out: thumbnails that were beyond the budget.
    """

    classes: Mapping[str, str]
    style: Markup
    num_left_out: int


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


def make_album(
    pictures: Mapping[str, bytes | None],
    order: Iterable[str],
    most_bytes: int = MOST_PICTURE_BYTES,
) -> Album:
    """Choose and lay out thumbnails.

    Args:
        pictures: JPEG by video id.
        order: ids that are shown, the most wanted first.
        most_bytes: of base64.
    """
    classes: dict[str, str] = {}
    rules = []
    spent = left_out = 0
    for video_id in dict.fromkeys(order):
        jpeg = pictures.get(video_id)
        if jpeg is None:
            continue
        data = base64.b64encode(jpeg).decode("ascii")
        if spent + len(data) > most_bytes:
            left_out += 1
            continue
        spent += len(data)
        classes[video_id] = f"v{len(classes)}"
        rules.append(f".{classes[video_id]}{{background-image:url(data:image/jpeg;base64,{data})}}")
    return Album(classes, Markup("\n".join(rules)), left_out)


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


def script_json(value: object) -> Markup:
    """Print JSON that cannot end the ``script`` element around it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _row(
    query: BrowsedQuery, captions: Mapping[str, str], classes: Mapping[str, str]
) -> list[object]:
    found = [
        [captions[id_] if query.direction == "v2t" else id_, classes.get(id_, ""), int(is_true)]
        for id_, is_true in zip(query.retrieved, query.is_true, strict=True)
    ]
    own = classes.get(query.video_id, "")
    return [query.text, query.video_id, own, query.head_rank, query.zero_shot_rank, found]
