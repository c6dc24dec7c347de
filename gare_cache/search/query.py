"""A query: sentences, images and videos with weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gare_cache.errors import ConfigError

Kind = Literal["text", "image", "video"]
LONGEST_TEXT = 10_000  # characters; CLIP reads 77 tokens


@dataclass(frozen=True)
class QueryPart:
    """One part of a query.

    Attributes:
        kind: what ``value`` is: a sentence, an image file, or a video's id or file.
        value: the sentence, id or path.
        weight: of its score; negative to exclude what it matches.
    """

    kind: Kind
    value: str
    weight: float = 1.0


@dataclass(frozen=True)
class Query:
    """Parts whose weighted mean score ranks the videos: sum_i w_i s_i / sum_i |w_i|."""

    parts: tuple[QueryPart, ...]


def make_query(
    sentence: str | None = None,
    *,
    also: Sequence[str] = (),
    without: Sequence[str] = (),
    images: Sequence[Path | str] = (),
    like: Sequence[str] = (),
) -> Query:
    """Return a query of sentences and examples.

    Args:
        sentence: the first sentence.
        also: more sentences; ``a dog^0.5`` has half the weight.
        without: sentences whose matches rank lower, by weight 0.5 or as written.
        images: image files that the video should resemble.
        like: ids of the gallery, or video files, that it should resemble.

    Raises:
        ConfigError: the query has no part, a sentence is empty or too long, or a weight is no
            number.
    """
    if not isinstance(sentence, str | None):
        raise ConfigError(f"the query is {sentence!r:.60}; give a sentence as a string")
    texts = [*([] if sentence is None else [sentence]), *also]
    parts = [
        *(_text(text, 1.0) for text in texts),
        *(QueryPart("image", str(path)) for path in images),
        *(QueryPart("video", str(name)) for name in like),
    ]
    if not parts:
        raise ConfigError("the query is empty; give a sentence, an image or a video to search for")
    return Query((*parts, *(_text(text, 0.5, sign=-1.0) for text in without)))


def _text(text: str, weight: float, sign: float = 1.0) -> QueryPart:
    words, caret, after = text.rpartition("^")
    if caret and _is_weight(after):
        text, weight = words, float(after)
    if not text.strip():
        raise ConfigError("the query has an empty sentence; describe what the video shows")
    if len(text) > LONGEST_TEXT:
        raise ConfigError(f"the query has {len(text):,} characters; at most {LONGEST_TEXT:,}")
    return QueryPart("text", text.strip(), sign * weight)


def _is_weight(text: str) -> bool:
    try:
        weight = float(text)
    except ValueError:
        return False
    if not math.isfinite(weight) or weight <= 0:
        raise ConfigError(f"the weight {text!r} in the query must be a positive number")
    return True
