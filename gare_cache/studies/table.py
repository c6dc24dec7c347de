"""Rows of a study's table: means and spreads over runs, paired differences to the reference."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.evaluation.comparison.differences import (
    Difference,
    adjusted,
    compare_runs,
    compare_seeds,
)
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.missing import counted_ranks
from gare_cache.files import finite_or_none
from gare_cache.studies.expansion import Variant
from gare_cache.studies.results import DONE, RunResult
from gare_cache.studies.study import METRIC_KEYS

_BOOTSTRAP_SEED = 0
_FEWEST_VIDEOS = 2

# Query -> its hit at 1 and its video.
Hits = Mapping[str, tuple[float, str]]
Values = npt.NDArray[np.float64]
Videos = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class StudyRow:
    """A variant of a study, summarised over its runs.

    Attributes:
        name: of the variant.
        axis_values: ``{axis: value}`` of the axes on which it has a value.
        changes: ``{dotted setting: value}`` relative to the base settings.
        runs: the finished runs, in the order of their seeds.
        failures: (seed, reason) of the failed runs.
        rank: by validation score, 1 is best, rows that tie share it; None without a finished run.
        validation_score: mean over seeds; None without a finished run.
        mean: of ``METRIC_KEYS`` on the study's split; empty without a finished run.
        std: sample standard deviation over seeds; empty below two.
        differences: R@1 minus the reference row's, by ``t2v.R@1`` and ``v2t.R@1``; empty for the
            reference, and if either row has no finished run or they share queries of less than
            two videos.
        seconds: mean duration of a training; None if unknown.
        peak_memory_bytes: the largest of any training; None if the device does not report it.
        parameters: number of trained parameters.
        published: numbers of a paper, by metric.
    """

    name: str
    axis_values: Mapping[str, str]
    changes: Mapping[str, Any]
    runs: Sequence[RunResult] = ()
    failures: Sequence[tuple[int, str]] = ()
    rank: int | None = None
    validation_score: float | None = None
    mean: Mapping[str, float] = field(default_factory=dict)
    std: Mapping[str, float] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    parameters: int | None = None
    published: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the row of study.json."""
        return {
            "variant": self.name,
            "rank": self.rank,
            "n": len(self.runs),
            "failed": [f"seed {seed}: {reason}" for seed, reason in self.failures],
            "validation_score": self.validation_score,
            "mean": finite_or_none(dict(self.mean)),
            "std": finite_or_none(dict(self.std)) or None,
            "difference": {key: _json(value) for key, value in self.differences.items()} or None,
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "parameters": self.parameters,
            "published": dict(self.published) or None,
        }


def study_rows(
    variants: Sequence[Variant],
    runs: Sequence[RunResult],
    *,
    reference: str,
    split: str,
    missing: str,
    resamples: int,
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> list[StudyRow]:
    """Summarise every variant and compare it with the reference.

    With one run on both sides a paired bootstrap over videos compares them, else Student's t over
    videos and seeds (``evaluation.comparison``). Rows that score the same trainings in two ways
    (raw, and after a normaliser) are paired by training, so that the variation between seeds that
    both share cancels. p is Holm-adjusted over both directions of all rows.

    Args:
        variants: of the study, in its order.
        runs: finished and failed runs; finished runs have scores on ``split``.
        reference: name of the row to compare with.
        split: the split that the rows show.
        missing: ``drop`` queries without features, or ``count_as_miss``.
        resamples: of the bootstrap.
        published: numbers shown beside the measured ones, by variant and metric.

    Returns:
        The rows, in the order of the variants.
    """
    done = {
        v.name: [run for run in runs if run.variant == v.name and run.status == DONE]
        for v in variants
    }
    differences = _differences(done, reference, split, missing, resamples)
    rows = [
        dataclasses.replace(
            _row(variant, [run for run in runs if run.variant == variant.name], split),
            differences=differences.get(variant.name, {}),
            published=(published or {}).get(variant.name, {}),
        )
        for variant in variants
    ]
    finished = [row for row in rows if row.runs]
    best_first = sorted(finished, key=lambda row: -(row.validation_score or 0.0))
    scores = [row.validation_score or 0.0 for row in best_first]
    # Rows that tie share the rank of the first of them: 1, 1, 3.
    rank = {row.name: 1 + scores.index(of) for row, of in zip(best_first, scores, strict=True)}
    return [dataclasses.replace(row, rank=rank.get(row.name)) for row in rows]


def smallest_visible(rows: Sequence[StudyRow]) -> dict[str, dict[str, float]]:
    """Return the smallest differences a table can show: medians over its rows, in points.

    Returns:
        ``{"t2v.R@1": {"half_width": 2.9, "detectable": 4.2}}``: the smallest observed difference
        whose interval excludes 0, and the true one that is detected four times out of five. Empty
        without a comparison whose interval is estimable.
    """
    estimated = {
        key: [
            row.differences[key]
            for row in rows
            if key in row.differences and row.differences[key].estimable
        ]
        for key in (f"{direction}.R@1" for direction in DIRECTIONS)
    }
    return {
        key: {
            "half_width": statistics.median(of.half_width for of in differences),
            "detectable": statistics.median(of.detectable for of in differences),
        }
        for key, differences in estimated.items()
        if differences
    }


def _row(variant: Variant, runs: Sequence[RunResult], split: str) -> StudyRow:
    done = [run for run in runs if run.status == DONE]
    scores = [run.splits[split].metrics for run in done]
    seconds = [run.seconds for run in done if run.seconds is not None]
    peaks = [run.peak_memory_bytes for run in done if run.peak_memory_bytes is not None]
    chosen = [run.validation_score for run in done if run.validation_score is not None]
    several = len(scores) > 1
    return StudyRow(
        name=variant.name,
        axis_values=variant.axis_values,
        changes=variant.changes,
        runs=sorted(done, key=lambda run: run.seed),
        failures=[(run.seed, run.reason) for run in runs if run.reason is not None],
        validation_score=statistics.mean(chosen) if chosen else None,
        mean={key: statistics.mean(s[key] for s in scores) for key in METRIC_KEYS if scores},
        std={key: _spread([s[key] for s in scores]) for key in METRIC_KEYS if several},
        seconds=statistics.mean(seconds) if seconds else None,
        peak_memory_bytes=max(peaks, default=None),
        parameters=done[0].parameters if done else None,
    )


def _spread(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else statistics.stdev(values)


def _differences(
    done: Mapping[str, Sequence[RunResult]],
    reference: str,
    split: str,
    missing: str,
    resamples: int,
) -> dict[str, dict[str, Difference]]:
    family: dict[tuple[str, str], Difference] = {}
    for direction in DIRECTIONS:
        hits = {
            name: [
                counted_ranks(
                    run.splits[split].ranks,
                    direction,
                    num_items=run.splits[split].gallery[direction],
                    rule=missing,
                ).hits_by_query()
                for run in runs
            ]
            for name, runs in done.items()
        }
        for name, of_variant in hits.items():
            if name == reference or not of_variant or not hits[reference]:
                continue
            values, base, video = _paired(of_variant, hits[reference])
            if len(np.unique(video)) < _FEWEST_VIDEOS:
                continue
            if len(values) == len(base) == 1:
                (difference,) = compare_runs(
                    values.T, base.T, video, resamples=resamples, seed=_BOOTSTRAP_SEED
                )
            elif _trainings(done[name]) == _trainings(done[reference]):
                difference = compare_seeds(values - base, np.zeros_like(base[:1]), video)
            else:
                difference = compare_seeds(values, base, video)
            family[name, f"{direction}.R@1"] = difference
    by_variant: dict[str, dict[str, Difference]] = {}
    for (name, key), difference in zip(family, adjusted(list(family.values())), strict=True):
        by_variant.setdefault(name, {})[key] = difference
    return by_variant


def _trainings(runs: Sequence[RunResult]) -> list[str]:
    return [run.run_key for run in runs]


def _paired(variant: Sequence[Hits], base: Sequence[Hits]) -> tuple[Values, Values, Videos]:
    """Return (S, Q) hits of both sides on the queries that all runs have, and (Q,) their videos."""
    runs = [*variant, *base]
    common = sorted(set(runs[0]).intersection(*runs[1:]))
    video_ids = np.array([runs[0][query][1] for query in common], dtype=str)
    values = np.array([[of_run[query][0] for query in common] for of_run in runs])  # (S + S', Q)
    video = np.unique(video_ids, return_inverse=True)[1]  # (Q,)
    return values[: len(variant)], values[len(variant) :], video


def _json(difference: Difference) -> dict[str, Any]:
    values = {
        "points": difference.points,
        "low": difference.low,
        "high": difference.high,
        "p": difference.p_value,
        "p_holm": difference.p_holm,
        "distinguishable": difference.distinguishable,
        "half_width": difference.half_width,
        "detectable": difference.detectable,
        "queries": difference.queries,
    }
    return dict(finite_or_none(values))
