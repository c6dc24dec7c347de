"""Album of thumbnails embedded in a page, within a budget of bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

MOST_PICTURE_BYTES = 5_000_000


@dataclass(frozen=True)
class Album:
    """Thumbnails, each embedded once in a page.

    Attributes:
        classes: video id -> CSS class that shows its thumbnail.
        style: the rules of these classes.
        num_left_out: number of thumbnails beyond the budget.
    """

    classes: Mapping[str, str]
    style: Markup
    num_left_out: int


def make_album(
    pictures: Mapping[str, bytes | None],
    order: Iterable[str],
    most_bytes: int = MOST_PICTURE_BYTES,
) -> Album:
    """Choose thumbnails within a budget and make their CSS rules.

    Args:
        pictures: JPEG by video id.
        order: shown ids, in order of priority.
        most_bytes: budget of base64.
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
