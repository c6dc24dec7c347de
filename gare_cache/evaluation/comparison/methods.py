"""Comparison of two methods on the same queries, with one or several runs of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from gare_cache.errors import counted
from gare_cache.evaluation.comparison.differences import (
    Difference,
    adjusted,
    compare_runs,
    compare_seeds,
    mcnemar_exact,
)
from gare_cache.evaluation.comparison.finished_runs import (
    FinishedRun,
    NotComparable,
    require_same_test,
    require_seeds_of_one_method,
)
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.missing import DirectionRanks
from gare_cache.evaluation.significance import Values

COMPARED_AT = (1, 5, 10)
RESAMPLES = 10_000
OUTCOMES = ("won", "lost")
_BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class MethodComparison:
    """Two methods, their runs and what distinguishes them.

    Attributes:
        a: runs of the first method, one per seed.
        b: runs of the second method.
        differences: by direction, recall of A minus recall of B at each K of ``COMPARED_AT``; p is
            adjusted for all six.
        changed: by direction, the queries whose hits at 1 differ (means over seeds), the largest
            change first.
        mcnemar: by direction, ``won``, ``lost`` and ``p`` of the exact test, or ``why not``.
    """

    a: Sequence[FinishedRun]
    b: Sequence[FinishedRun]
    differences: Mapping[str, Sequence[Difference]]
    changed: Mapping[str, pa.Table]
    mcnemar: Mapping[str, Mapping[str, Any]]

    @property
    def of_single_runs(self) -> bool:
        """Whether each method has one run, so that only videos are a sample."""
        return len(self.a) == len(self.b) == 1

    def to_json(self) -> dict[str, Any]:
        """Return the figures, unrounded."""
        metrics = self.a[0].metrics
        result: dict[str, Any] = {
            "a": [run.name for run in self.a],
            "b": [run.name for run in self.b],
            "split": metrics["split"],
            "v2t_convention": metrics["v2t_convention"],
            "procedure": "videos" if self.of_single_runs else "videos and seeds",
        }
        for direction in DIRECTIONS:
            rows = {
                f"R@{k}": {
                    "a": recalls(self.a, direction, k),
                    "b": recalls(self.b, direction, k),
                    "difference": difference.points,
                    "low": difference.low,
                    "high": difference.high,
                    "p": difference.p_value,
                    "p Holm": difference.p_holm,
                    "detectable": difference.detectable,
                }
                for k, difference in zip(COMPARED_AT, self.differences[direction], strict=True)
            }
            outcomes = self.changed[direction]["outcome"].to_pylist()
            counts = {outcome: outcomes.count(outcome) for outcome in OUTCOMES}
            result[direction] = {**rows, **counts, "McNemar": self.mcnemar[direction]}
        return result


def compare_methods(a: Sequence[FinishedRun], b: Sequence[FinishedRun]) -> MethodComparison:
    """Compare two methods on the same test queries.

    Args:
        a: runs of the first method, one per seed.
        b: runs of the second method.

    Raises:
        NotComparable: the runs were scored on different queries or in different ways, or runs of
            one method differ in more than the seed.
    """
    _require_comparable(a, b)
    family = iter(adjusted([d for direction in DIRECTIONS for d in _differences(a, b, direction)]))
    return MethodComparison(
        a,
        b,
        differences={d: [next(family) for _ in COMPARED_AT] for d in DIRECTIONS},
        changed={direction: _changed_queries(a, b, direction) for direction in DIRECTIONS},
        mcnemar={direction: _mcnemar(a, b, direction) for direction in DIRECTIONS},
    )


def recalls(runs: Sequence[FinishedRun], direction: str, k: int) -> list[float]:
    """Return each run's recall at ``k`` in percent."""
    return [float(recall) for recall in 100 * _hits(runs, direction, k).mean(axis=1)]


def _require_comparable(a: Sequence[FinishedRun], b: Sequence[FinishedRun]) -> None:
    for runs in (a, b):
        require_seeds_of_one_method(runs)
    shared = {(r.folder.resolve(), r.method) for r in a} & {
        (r.folder.resolve(), r.method) for r in b
    }
    if shared:
        folder, method = min(shared)
        raise NotComparable(f"{folder} ({method}) is given on both sides; give two methods")
    for run in (*a[1:], *b):
        require_same_test(a[0], run)
    num_videos = len(np.unique(a[0].directions["t2v"].video_ids))
    if num_videos < 2:
        raise NotComparable(f"{a[0].folder} has queries of {num_videos} video; 2 are needed")


def _differences(
    a: Sequence[FinishedRun], b: Sequence[FinishedRun], direction: str
) -> list[Difference]:
    video = np.unique(_queries(a, direction).video_ids, return_inverse=True)[1]  # (Q,)
    hits_a, hits_b = ([_hits(runs, direction, k) for k in COMPARED_AT] for runs in (a, b))
    if len(a) == len(b) == 1:
        run_a, run_b = (np.stack([h[0] for h in hits], axis=1) for hits in (hits_a, hits_b))
        return compare_runs(run_a, run_b, video, resamples=RESAMPLES, seed=_BOOTSTRAP_SEED)
    return [compare_seeds(ours, theirs, video) for ours, theirs in zip(hits_a, hits_b, strict=True)]


def _mcnemar(a: Sequence[FinishedRun], b: Sequence[FinishedRun], direction: str) -> dict[str, Any]:
    if len(a) > 1 or len(b) > 1:
        return {"why not": "several runs of a method"}
    video_ids = _queries(a, direction).video_ids
    several = len(video_ids) - len(np.unique(video_ids))
    if several:
        return {
            "why not": f"{counted(len(video_ids), 'query')} of "
            f"{counted(len(video_ids) - several, 'video')}"
        }
    hits_a, hits_b = _hits(a, direction, 1)[0], _hits(b, direction, 1)[0]
    tied = int(((hits_a % 1 > 0) | (hits_b % 1 > 0)).sum())
    if tied:
        return {"why not": f"{counted(tied, 'query', 'have')} a tie for the first place"}
    won, lost = int((hits_a > hits_b).sum()), int((hits_a < hits_b).sum())
    return {"won": won, "lost": lost, "p": mcnemar_exact(won, lost)}


def _changed_queries(
    a: Sequence[FinishedRun], b: Sequence[FinishedRun], direction: str
) -> pa.Table:
    queries = _queries(a, direction)
    hit_a, hit_b = (_hits(runs, direction, 1).mean(axis=0) for runs in (a, b))  # (Q,) each
    rank_a, rank_b = (
        np.mean([run.directions[direction].ranks.expected for run in runs], axis=0)
        for runs in (a, b)
    )  # (Q,) each
    gain, moved = hit_a - hit_b, np.abs(rank_a - rank_b)
    order = np.lexsort((queries.query_ids, -moved, -np.abs(gain), gain < 0))
    rows = order[gain[order] != 0]
    columns = {
        "direction": [direction] * len(rows),
        "outcome": ["won" if value > 0 else "lost" for value in gain[rows]],
        "query_id": queries.query_ids[rows].tolist(),
        "video_id": queries.video_ids[rows].tolist(),
        "hit_a": hit_a[rows],
        "hit_b": hit_b[rows],
        "rank_a": rank_a[rows],
        "rank_b": rank_b[rows],
    }
    text = dict.fromkeys(("direction", "outcome", "query_id", "video_id"), pa.string())
    numbers = dict.fromkeys(("hit_a", "hit_b", "rank_a", "rank_b"), pa.float64())
    return pa.table(columns, schema=pa.schema(list({**text, **numbers}.items())))


def _queries(runs: Sequence[FinishedRun], direction: str) -> DirectionRanks:
    return runs[0].directions[direction]


def _hits(runs: Sequence[FinishedRun], direction: str, k: int) -> Values:
    return np.stack([run.directions[direction].ranks.hits(k) for run in runs])  # (S, Q)
