"""Runs -> the table of a study: means, spreads, and paired differences to the reference row."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gare_cache.evaluation.comparison.differences import (
    LEVEL,
    Difference,
    compare_runs,
    compare_seeds,
    holm,
)
from gare_cache.evaluation.metrics import DIRECTIONS, RECALL_AT, QueryRanks
from gare_cache.studies.results import DONE, RunResult, SplitResult
from gare_cache.studies.study import METRIC_KEYS

_BOOTSTRAP_SEED = 0
_FEWEST_VIDEOS = 2

# Query -> its hit at 1 and its video.
Hits = Mapping[str, tuple[float, str]]
Values = npt.NDArray[np.float64]
Videos = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowDifference:
    """A row's R@1 minus the reference row's.

    Attributes:
        found: in points, with its interval and p.
        p_holm: p adjusted for all differences of the table (Holm).
        queries: that both rows answer; the difference is over these.
    """

    found: Difference
    p_holm: float
    queries: int

    @property
    def distinguishable(self) -> bool:
        """Whether the adjusted p is at most 0.05."""
        return self.p_holm <= LEVEL


@dataclass(frozen=True)
class TableRow:
    """A variant over its seeds.

    Attributes:
        variant: its name.
        rank: by validation score, 1 is best; None without a finished run.
        n: seeds that are done.
        failed: reasons of those that failed.
        validation_score: mean over seeds; None without a finished run.
        mean: of ``METRIC_KEYS`` on the table's split; empty without a finished run.
        std: sample standard deviation over seeds; None below two.
        difference: by ``t2v.R@1`` and ``v2t.R@1``; None for the reference row, and where either
            row has no finished run or they share queries of less than two videos.
        seconds: mean of one training; None where none is known.
        peak_memory_bytes: the most of one training.
        parameters: trained ones.
    """

    variant: str
    rank: int | None
    n: int
    failed: tuple[str, ...]
    validation_score: float | None
    mean: Mapping[str, float]
    std: Mapping[str, float] | None
    difference: Mapping[str, RowDifference] | None
    seconds: float | None
    peak_memory_bytes: int | None
    parameters: int | None


def study_table(
    variants: Sequence[str],
    runs: Sequence[RunResult],
    *,
    reference: str,
    split: str,
    missing: str,
    resamples: int,
) -> list[TableRow]:
    """Summarise every variant and compare it with the reference.

    With one run on both sides a paired bootstrap over videos compares them, else Student's t over
    videos and seeds (``evaluation.comparison``). Rows that score the same trainings in two ways
    (raw, and after a normaliser) are paired by training: the seeds' noise that both share is in no
    difference. p is Holm-adjusted over both directions of all rows.

    Args:
        variants: names, in the order of the study.
        runs: finished and failed runs; one that is done has scores on ``split``.
        reference: name of the row to compare with.
        split: the split that the table shows.
        missing: ``drop`` queries without features, or ``count_as_miss``.
        resamples: of the bootstrap.

    Returns:
        The rows, best validation score first; rows without a finished run last.
    """
    done = {name: [r for r in runs if r.variant == name and r.status == DONE] for name in variants}
    differences = _differences(done, reference, split, missing, resamples)
    rows = [
        _row(name, [r for r in runs if r.variant == name], done[name], split, differences.get(name))
        for name in variants
    ]
    order = sorted(rows, key=lambda row: (row.n == 0, -(row.validation_score or 0.0)))
    return [
        dataclasses.replace(row, rank=place if row.n else None)
        for place, row in enumerate(order, start=1)
    ]


def smallest_visible(rows: Sequence[TableRow]) -> dict[str, dict[str, float]]:
    """Return what the table can show: by metric the median over its rows, in points.

    Returns:
        ``{"t2v.R@1": {"half_width": 2.9, "detectable": 4.2}}``: the smallest difference seen that
        leaves the interval clear of 0, and the true one that is found four times of five. Empty
        without a comparison.
    """
    compared = [row.difference for row in rows if row.difference is not None]
    return {
        key: {
            "half_width": statistics.median(d[key].found.half_width for d in compared),
            "detectable": statistics.median(d[key].found.detectable for d in compared),
        }
        for key in (f"{direction}.R@1" for direction in DIRECTIONS)
        if compared
    }


def _row(
    name: str,
    runs: Sequence[RunResult],
    done: Sequence[RunResult],
    split: str,
    difference: Mapping[str, RowDifference] | None,
) -> TableRow:
    scores = [run.splits[split].metrics for run in done]
    seconds = [run.seconds for run in done if run.seconds is not None]
    peaks = [run.peak_memory_bytes for run in done if run.peak_memory_bytes is not None]
    chosen = [run.validation_score for run in done if run.validation_score is not None]
    return TableRow(
        variant=name,
        rank=None,
        n=len(done),
        failed=tuple(f"seed {run.seed}: {run.reason}" for run in runs if run.reason is not None),
        validation_score=statistics.mean(chosen) if chosen else None,
        mean={key: statistics.mean(s[key] for s in scores) for key in METRIC_KEYS if scores},
        std={key: statistics.stdev(s[key] for s in scores) for key in METRIC_KEYS}
        if len(scores) > 1
        else None,
        difference=difference,
        seconds=statistics.mean(seconds) if seconds else None,
        peak_memory_bytes=max(peaks, default=None),
        parameters=done[0].parameters if done else None,
    )


def _differences(
    done: Mapping[str, Sequence[RunResult]],
    reference: str,
    split: str,
    missing: str,
    resamples: int,
) -> dict[str, dict[str, RowDifference]]:
    found: dict[tuple[str, str], tuple[Difference, int]] = {}
    for direction in DIRECTIONS:
        hits = {
            name: [_hits(run.splits[split], direction, missing) for run in runs]
            for name, runs in done.items()
        }
        for name, own in hits.items():
            if name == reference or not own or not hits[reference]:
                continue
            values, base, video = _paired(own, hits[reference])
            if len(np.unique(video)) < _FEWEST_VIDEOS:
                continue
            if len(values) == len(base) == 1:
                difference = compare_runs(
                    values.T, base.T, video, resamples=resamples, seed=_BOOTSTRAP_SEED
                )[0]
            elif _trainings(done[name]) == _trainings(done[reference]):
                difference = compare_seeds(values - base, np.zeros_like(base[:1]), video)
            else:
                difference = compare_seeds(values, base, video)
            found[name, f"{direction}.R@1"] = difference, len(video)
    adjusted = holm([difference.p_value for difference, _ in found.values()])
    rows: dict[str, dict[str, RowDifference]] = {}
    for ((name, key), (difference, queries)), p in zip(found.items(), adjusted, strict=True):
        rows.setdefault(name, {})[key] = RowDifference(difference, p, queries)
    return rows


def _trainings(runs: Sequence[RunResult]) -> list[str]:
    return [run.run_key for run in runs]


def _paired(own: Sequence[Hits], base: Sequence[Hits]) -> tuple[Values, Values, Videos]:
    """Return (S, Q) hits of both sides on the queries that all runs have, and (Q,) their videos."""
    runs = [*own, *base]
    common = sorted(set(runs[0]).intersection(*runs[1:]))
    video_ids = np.array([runs[0][query][1] for query in common], dtype=str)
    values = np.array([[of_run[query][0] for query in common] for of_run in runs])
    return values[: len(own)], values[len(own) :], np.unique(video_ids, return_inverse=True)[1]


def _hits(result: SplitResult, direction: str, missing: str) -> Hits:
    rows = [row for row in result.ranks.to_pylist() if row["direction"] == direction]
    if missing == "drop":
        rows = [row for row in rows if row["ahead"] is not None]
    # A query without features that counts is a miss at every K, behind the whole gallery.
    behind = max(result.gallery[direction], *RECALL_AT)
    ranks = QueryRanks(
        np.array([behind if row["ahead"] is None else row["ahead"] for row in rows]),
        np.array([row["ties"] or 0 for row in rows]),
    )
    return {
        row["query_id"]: (hit, row["video_id"])
        for row, hit in zip(rows, ranks.hits(1).tolist(), strict=True)
    }
