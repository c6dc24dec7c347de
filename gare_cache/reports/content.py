"""What a report shows, as plain values: the report stage fills it, tables and pages render it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gare_cache.evaluation.results import MethodResult

RECALLS = ("R@1", "R@5", "R@10", "R@50")


@dataclass(frozen=True)
class ResultRow:
    """One scored method on one split.

    Attributes:
        name: what was scored, as printed.
        scores: by direction.
    """

    name: str
    scores: MethodResult


@dataclass(frozen=True)
class RetrievedVideo:
    """A video at some rank for a query."""

    video_id: str
    rank: float
    score: float
    is_true: bool


@dataclass(frozen=True)
class QueryExample:
    """A caption, the rank of its video (1 is best), and the first videos retrieved for it.

    ``retrieved`` holds the top few in order; the true video is appended where it is not among them.
    """

    caption: str
    true_rank: float
    retrieved: Sequence[RetrievedVideo]


@dataclass(frozen=True)
class Epoch:
    """One epoch of training: mean loss terms, validation metrics, learning rate after it."""

    epoch: int
    losses: Mapping[str, float]
    validation: Mapping[str, float]
    learning_rate: float


@dataclass(frozen=True)
class Hub:
    """An item that many queries find.

    Attributes:
        item_id: its id.
        text: its caption; empty where the item is a video.
        own: queries it is true for.
        at_1: queries that find it first.
        at_10: queries that find it among their first ten.
    """

    item_id: str
    text: str
    own: int
    at_1: int
    at_10: int


@dataclass(frozen=True)
class Hubness:
    """How evenly one method spreads what it finds, in one direction.

    Attributes:
        method: its name.
        direction: ``t2v`` or ``v2t``.
        num_queries: queries.
        num_items: items in the gallery.
        skewness: of the counts, at 1 and at 10.
        never: items that no query finds, at 1 and at 10.
        counts: (items,) queries that find each item among their first ten.
        hubs: the items found most.
    """

    method: str
    direction: str
    num_queries: int
    num_items: int
    skewness: tuple[float, float]
    never: tuple[int, int]
    counts: npt.NDArray[np.int64]
    hubs: Sequence[Hub]


@dataclass(frozen=True)
class VideoCell:
    """A cell that shows a video's thumbnail and id."""

    video_id: str


@dataclass(frozen=True)
class NearDuplicates:
    """What in the test set is nearly the same; ``examples`` are rows of cells.

    Attributes:
        title: of the kind.
        finding: the counts, one sentence.
        meaning: how to read it, one sentence.
        header: column titles of the examples.
        examples: a short list; a cell is text, or ``VideoCell``.
    """

    title: str
    finding: str
    meaning: str
    header: Sequence[str]
    examples: Sequence[Sequence[str | VideoCell]]


@dataclass(frozen=True)
class ModalityGap:
    """Where texts and their videos lie under one method.

    Attributes:
        method: its name.
        numbers: ``evaluation.modality_gap.gap_numbers`` and ``unmatched_cosine``.
        points: ``{"text" | "video" | "shifted": (N, 2)}`` of some pairs.
        num_pairs: pairs behind the numbers.
        second_share: share of the variance that the second axis holds.
        side: what the increment corrects, ``text`` or ``video``.
    """

    method: str
    numbers: Mapping[str, float | None]
    points: Mapping[str, npt.NDArray[np.float64]]
    num_pairs: int
    second_share: float
    side: str = "text"


@dataclass(frozen=True)
class IncrementSection:
    """What the diagnosis of the head's increment says.

    Attributes:
        answers: questions and what the numbers answer; empty where there is no diagnosis.
        note: what it was measured on, or why there is none.
        page: path of the diagnosis without its suffix, seen from the report; None without one.
    """

    answers: Sequence[tuple[str, str]]
    note: str
    page: str | None


@dataclass(frozen=True)
class BrowsedQuery:
    """A row of the query browser.

    Attributes:
        direction: ``t2v`` or ``v2t``.
        text: the caption; of a video as query its id.
        video_id: the query's own video.
        head_rank: None where the query has no features.
        zero_shot_rank: likewise.
        retrieved: ids that the head finds first: videos for t2v, captions for v2t.
        is_true: for each of these whether it answers the query.
    """

    direction: str
    text: str
    video_id: str
    head_rank: float | None
    zero_shot_rank: float | None
    retrieved: Sequence[str]
    is_true: Sequence[bool]


@dataclass(frozen=True)
class NormaliserLedger:
    """The scores after test-time normalisers, beside the raw ones.

    Attributes:
        header: column titles.
        rows: cells, the raw scores first in each direction.
        notes: how to read them, one sentence each.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page.

    Attributes:
        title: heading of the page.
        summary: what was scored and how often, one sentence each.
        facts: (name, value) pairs: protocol, split, encoder, coverage, seed, versions.
        rows: results, the zero-shot baseline first.
        alternative_rows: the same under the other rule for missing queries; empty where none is.
        normalisers: the ledger of normalisers; None where none was asked for.
        differences: sentences that state each paired difference with its interval and test.
        epochs: training curves, in order; empty where nothing was trained.
        best_epoch: the epoch whose weights were kept.
        similarity: (T, V) cosine of the scored head.
        true_video: (T,) column of each text's video.
        ranks: ``{direction: {method: ranks of the queries with features}}``.
        best: queries answered best; worst: queries answered worst.
        notes: warnings and explanations, one sentence each.
        hubness: one entry a direction and method.
        duplicates: kinds of near duplicates.
        gaps: one entry a method that compares two vectors.
        without_gap: sentences on the methods that do not.
        queries: rows of the browser.
        captions: id -> caption, of what the browser shows.
        pictures: thumbnails by video id.
        increment: of the head; None where it has none.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    rows: Sequence[ResultRow]
    differences: Sequence[str]
    epochs: Sequence[Epoch]
    best_epoch: int
    similarity: npt.NDArray[np.float32]
    true_video: npt.NDArray[np.int64]
    best: Sequence[QueryExample]
    worst: Sequence[QueryExample]
    notes: Sequence[str]
    summary: Sequence[str] = ()
    alternative_rows: Sequence[ResultRow] = ()
    normalisers: NormaliserLedger | None = None
    ranks: Mapping[str, Mapping[str, npt.NDArray[np.float64]]] = field(default_factory=dict)
    hubness: Sequence[Hubness] = ()
    duplicates: Sequence[NearDuplicates] = ()
    gaps: Sequence[ModalityGap] = ()
    without_gap: Sequence[str] = ()
    queries: Sequence[BrowsedQuery] = ()
    captions: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, bytes | None] = field(default_factory=dict)
    increment: IncrementSection | None = None
