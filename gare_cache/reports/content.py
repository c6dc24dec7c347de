"""Content of a run's report as plain values, rendered by tables and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gare_cache.evaluation.results import MethodResult
from gare_cache.reports.protocol import ProtocolSection

RECALLS = ("R@1", "R@5", "R@10", "R@50")


@dataclass(frozen=True)
class ResultRow:
    """One scored method on one split.

    Attributes:
        name: of the method, as printed.
        scores: by direction.
    """

    name: str
    scores: MethodResult


@dataclass(frozen=True)
class RetrievedVideo:
    """A retrieved video with its rank and score."""

    video_id: str
    rank: float
    score: float
    is_true: bool


@dataclass(frozen=True)
class QueryExample:
    """A caption, the rank of its video (1 is best), and the first videos retrieved for it.

    ``retrieved`` holds the top few in order; the true video is appended if it is not among them.
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
    """An item that many queries retrieve.

    Attributes:
        item_id: its id.
        text: its caption; empty if the item is a video.
        num_true: number of queries for which it is true.
        at_1: number of queries that rank it first.
        at_10: number of queries that rank it among their first ten.
    """

    item_id: str
    text: str
    num_true: int
    at_1: int
    at_10: int


@dataclass(frozen=True)
class Hubness:
    """Hubness of one method in one direction: how evenly it retrieves the items.

    Attributes:
        method: its name.
        direction: ``t2v`` or ``v2t``.
        num_queries: number of queries.
        num_items: number of items in the gallery.
        skewness: of the k-occurrences, at 1 and at 10.
        never: number of items that no query retrieves, at 1 and at 10.
        counts: (G,) number of queries that have each item among their first ten.
        hubs: the items retrieved most often.
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
    """One kind of near-duplicates in the scored split, or between it and another.

    Attributes:
        title: of the kind.
        finding: the counts, in a sentence.
        meaning: how to read them.
        header: column titles of the examples.
        examples: rows of cells; a cell is a string or ``VideoCell``.
    """

    title: str
    finding: str
    meaning: str
    header: Sequence[str]
    examples: Sequence[Sequence[str | VideoCell]]


@dataclass(frozen=True)
class ModalityGap:
    """The modality gap of one method, in numbers and in a plane.

    Attributes:
        method: its name.
        numbers: ``evaluation.modality_gap.gap_numbers`` and ``unmatched_cosine``.
        points: ``{"text" | "video" | "shifted": (N, 2)}`` of some pairs.
        num_pairs: number of pairs behind the numbers.
        second_share: share of the variance along the second axis.
        side: the side corrected by the increment, ``text`` or ``video``.
    """

    method: str
    numbers: Mapping[str, float | None]
    points: Mapping[str, npt.NDArray[np.float64]]
    num_pairs: int
    second_share: float
    side: str = "text"


@dataclass(frozen=True)
class IncrementSection:
    """Summary of the diagnosis of the head's increment.

    Attributes:
        answers: questions with their answers; empty if there is no diagnosis.
        note: what it was measured on, or why there is none.
        page: path of the diagnosis page, relative to the report and without suffix, or None.
    """

    answers: Sequence[tuple[str, str]]
    note: str
    page: str | None


@dataclass(frozen=True)
class BrowsedQuery:
    """A row of the query browser.

    Attributes:
        direction: ``t2v`` or ``v2t``.
        text: the caption, or the id of the video that is the query.
        video_id: the query's video.
        head_rank: None if the query has no features.
        zero_shot_rank: None if the query has no features.
        retrieved: ids of the head's top items: videos for t2v, captions for v2t.
        is_true: for each of these, whether it answers the query.
    """

    direction: str
    text: str
    video_id: str
    head_rank: float | None
    zero_shot_rank: float | None
    retrieved: Sequence[str]
    is_true: Sequence[bool]


@dataclass(frozen=True)
class TableSection:
    """A table of a report with what explains it.

    Attributes:
        header: column titles.
        rows: cells.
        notes: explanations, one sentence each.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


@dataclass(frozen=True)
class ReportContent:
    """Content of a run's report.

    Attributes:
        title: heading of the page.
        verdict: the result in one sentence.
        methods: what the names of the rows stand for, in one sentence.
        summary: what was scored and how often, one sentence each.
        without_features: (place of the annotation, split, reason) of each such video.
        protocol: on what was scored, and what it compares with; None if it is not known.
        facts: (name, value) pairs: encoder, coverage, seed, versions.
        rows: results, the zero-shot baseline first.
        alternative_rows: the same under the other rule for missing queries; empty if none is.
        normalisers: the ledger of normalisers; None without normalisers.
        finetuned: the encoder before and after its finetuning; None where it is frozen.
        differences: a sentence per paired difference, with its interval.
        epochs: training curves, in order; empty if nothing was trained.
        best_epoch: the epoch whose weights were kept.
        similarity: (T, V) cosine of the scored head.
        true_video: (T,) column of each text's video.
        ranks: ``{direction: {method: ranks of the queries with features}}``.
        best: the best answered queries.
        worst: the worst answered queries.
        notes: warnings and explanations, one sentence each.
        hubness: an entry for each direction and method.
        duplicates: kinds of near-duplicates.
        leaks: kinds of duplicates in other splits.
        gaps: an entry for each method that compares two vectors.
        without_gap: a sentence for each method that does not.
        queries: rows of the query browser.
        captions: id -> caption, for the query browser.
        pictures: thumbnails by video id.
        increment: summary of the diagnosis; None for a head without increment.
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
    protocol: ProtocolSection | None = None
    verdict: str = ""
    methods: str = ""
    summary: Sequence[str] = ()
    without_features: Sequence[tuple[str, str, str]] = ()
    alternative_rows: Sequence[ResultRow] = ()
    normalisers: TableSection | None = None
    finetuned: TableSection | None = None
    ranks: Mapping[str, Mapping[str, npt.NDArray[np.float64]]] = field(default_factory=dict)
    hubness: Sequence[Hubness] = ()
    duplicates: Sequence[NearDuplicates] = ()
    leaks: Sequence[NearDuplicates] = ()
    gaps: Sequence[ModalityGap] = ()
    without_gap: Sequence[str] = ()
    queries: Sequence[BrowsedQuery] = ()
    captions: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, bytes | None] = field(default_factory=dict)
    increment: IncrementSection | None = None
