"""What the report of a study shows, as plain values that tables and pages render."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

HEADLINE = "t2v.R@1"
METRICS = (HEADLINE, "t2v.R@5", "t2v.R@10", "v2t.R@1")
SPLIT_TITLES = {"val": "validation split", "test": "test split"}

Curve = Mapping[int, float]


@dataclass(frozen=True)
class Contrast:
    """A variant minus the reference in one metric, in points.

    Attributes:
        points: difference of the means.
        low: lower end of its 95 % interval.
        high: upper end.
        p_holm: two-sided p, adjusted for the number of variants.
        distinguishable: whether that is small enough.
        half_width: the smallest difference seen that would leave the interval clear of 0.
        detectable: the true difference that would be found four times of five.
    """

    points: float
    low: float
    high: float
    p_holm: float
    distinguishable: bool
    half_width: float
    detectable: float


@dataclass(frozen=True)
class Run:
    """One finished run of a variant.

    Attributes:
        seed: its seed.
        metrics: ``{"t2v.R@1": percent, ...}`` on the shown split.
        best_epoch: the epoch whose weights were kept.
        seconds: of its training.
        score: validation score by epoch.
        loss: total loss by epoch.
    """

    seed: int
    metrics: Mapping[str, float]
    best_epoch: int | None
    seconds: float | None
    score: Curve = field(default_factory=dict)
    loss: Curve = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One row of the study.

    Attributes:
        name: as printed.
        axis_values: ``{axis: value}`` of the axes it has a value on.
        changes: ``{dotted setting: value}`` against the base settings.
        rank: by validation score, 1 is best; None where no run finished.
        mean: by metric, over the finished runs; empty where none finished.
        std: by metric; empty with fewer than two runs.
        contrasts: by metric; empty for the reference and where no run finished.
        seconds: mean of its runs.
        peak_memory_bytes: of its runs; None where the device does not tell.
        parameters: number of trained parameters.
        published: numbers of a paper, by metric.
        runs: finished runs, in the order of their seeds.
        failures: (seed, reason) of the others.
    """

    name: str
    axis_values: Mapping[str, str]
    changes: Mapping[str, Any]
    rank: int | None
    mean: Mapping[str, float]
    std: Mapping[str, float]
    contrasts: Mapping[str, Contrast]
    seconds: float | None
    peak_memory_bytes: float | None
    parameters: int | None
    published: Mapping[str, float]
    runs: Sequence[Run]
    failures: Sequence[tuple[int, str]]


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


@dataclass(frozen=True)
class StudyContent:
    """Everything on the page of a study.

    Attributes:
        title: of the study.
        question: what it asks; may be empty.
        split: ``val`` or ``test``, the split that is shown.
        axes: ``{axis: values}`` in order.
        variants: in the study's order.
        reference: name of the variant that the others are compared with.
        seeds: that were asked for.
        facts: (name, value) pairs: protocol, features, versions, machine.
        notes: warnings and explanations, one sentence each.
        published_source: where published numbers are from; empty without them.
        published_note: why they need not agree.
        queries: by direction.
        pictures: thumbnails (JPEG) by video id.
    """

    title: str
    question: str
    split: str
    axes: Mapping[str, Sequence[str]]
    variants: Sequence[Variant]
    reference: str
    seeds: Sequence[int]
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    published_source: str = ""
    published_note: str = ""
    queries: Mapping[str, QueryTable] = field(default_factory=dict)
    pictures: Mapping[str, bytes | None] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """Title with the split that is shown."""
        return f"{self.title}: {self.split_title}"

    @property
    def split_title(self) -> str:
        """The split in words."""
        return SPLIT_TITLES[self.split]

    @property
    def ranked(self) -> list[Variant]:
        """Variants by validation score, those without a finished run last."""
        return sorted(self.variants, key=lambda one: (one.rank is None, one.rank or 0))

    @property
    def reference_variant(self) -> Variant:
        """The variant that the others are compared with."""
        return next(one for one in self.variants if one.name == self.reference)

    @property
    def compared(self) -> list[Variant]:
        """Variants with a difference to the reference, the best first."""
        return [one for one in self.ranked if HEADLINE in one.contrasts]
