"""What a report shows, as plain values: the report stage fills it, tables and pages render it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DIRECTIONS = ("t2v", "v2t")
RECALLS = ("R@1", "R@5", "R@10", "R@50")
METRICS = (*RECALLS, "MdR", "MnR")


@dataclass(frozen=True)
class ResultRow:
    """One scored method on one split.

    Attributes:
        name: what was scored, as printed.
        num_queries: ``{direction: queries counted}``.
        num_items: ``{direction: items in the gallery}``.
        metrics: ``{direction: {metric: value}}``, recalls in percent.
        intervals: ``{direction: {"R@1": (low, high)}}``, 95 % bootstrap over videos, percent.
        num_tied: ``{direction: queries with a tie at the true item}``.
    """

    name: str
    num_queries: Mapping[str, int]
    num_items: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    num_tied: Mapping[str, int]


@dataclass(frozen=True)
class RetrievedVideo:
    """A video at some rank for a query; ``thumbnail`` is a JPEG, or None where there is none."""

    video_id: str
    rank: float
    score: float
    is_true: bool
    thumbnail: bytes | None


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
class ReportContent:
    """Everything on the page.

    Attributes:
        title: heading of the page.
        facts: (name, value) pairs: protocol, split, encoder, coverage, seed, versions.
        rows: results, the zero-shot baseline first.
        differences: sentences that state each paired difference with its interval and test.
        epochs: training curves, in order; empty where nothing was trained.
        best_epoch: the epoch whose weights were kept.
        similarity: (T, V) cosine of the scored head.
        true_video: (T,) column of each text's video.
        best: queries answered best; worst: queries answered worst.
        notes: warnings and explanations, one sentence each.
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
