"""Stage compare: evaluated runs of two methods -> is one better, and which queries differ."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv as pyarrow_csv

from gare_cache.errors import ConfigError
from gare_cache.evaluation.comparison.differences import (
    LEVEL,
    Difference,
    compare_runs,
    compare_seeds,
    holm,
    mcnemar_exact,
)
from gare_cache.evaluation.comparison.finished_runs import (
    FinishedRun,
    NotComparable,
    read_finished_run,
    require_same_test,
    require_seeds_of_one_method,
)
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.missing import DirectionRanks
from gare_cache.evaluation.significance import Values
from gare_cache.files import replacing, write_json, write_parquet
from gare_cache.reports.pages.grids import DIRECTION_TITLES, format_rank
from gare_cache.reports.pages.plain_table import plain_table

_RECALL_AT = (1, 5, 10)
_RESAMPLES = 10_000
_BOOTSTRAP_SEED = 0
_SHOWN = 3
_TABLES = (".parquet", ".csv")
# Single-run gains of this size are published on test sets of 1,000 queries.
_PUBLISHED_GAIN = 2.0


def compare(
    runs_a: Sequence[Path],
    runs_b: Sequence[Path],
    *,
    method_a: str = "head",
    method_b: str = "head",
    queries_file: Path | None = None,
    json_file: Path | None = None,
) -> list[str]:
    """Compare two methods on the same test queries, one or several seeds of each.

    Args:
        runs_a: outputs folders of A, one a seed.
        runs_b: outputs folders of B, one a seed.
        method_a: which method of ``ranks.parquet`` A is.
        method_b: which method of ``ranks.parquet`` B is.
        queries_file: where to list the queries won and lost; Parquet or CSV by its ending.
        json_file: where to write the figures, unrounded.

    Returns:
        Lines to print.

    Raises:
        ConfigError: a folder holds no evaluation, or the list cannot be written in this format.
        NotComparable: the runs were scored on different queries or in different ways.
    """
    if queries_file is not None and queries_file.suffix not in _TABLES:
        raise ConfigError(f"{queries_file} must end in {' or '.join(_TABLES)}")
    a = [read_finished_run(folder, method_a) for folder in runs_a]
    b = [read_finished_run(folder, method_b) for folder in runs_b]
    _require_comparable(a, b)
    differences = {direction: _differences(a, b, direction) for direction in DIRECTIONS}
    changed = {direction: _changed_queries(a, b, direction) for direction in DIRECTIONS}
    mcnemar = {direction: _mcnemar(a, b, direction) for direction in DIRECTIONS}
    if queries_file is not None:
        _write_table(queries_file, pa.concat_tables(changed.values()))
    if json_file is not None:
        write_json(json_file, _result(a, b, differences, changed, mcnemar))
    return [
        *_heading(a, b),
        "",
        *_grid(a, b, differences),
        "",
        _how(a, b),
        *(f"{DIRECTION_TITLES[d]}: {_mcnemar_words(mcnemar[d])}" for d in DIRECTIONS),
        *_resolution(a, b, differences),
        "",
        *(line for d in DIRECTIONS for line in _changed_lines(d, changed[d])),
    ]


def _require_comparable(a: Sequence[FinishedRun], b: Sequence[FinishedRun]) -> None:
    for runs in (a, b):
        require_seeds_of_one_method(runs)
    shared = {(r.folder.resolve(), r.method) for r in a} & {
        (r.folder.resolve(), r.method) for r in b
    }
    if shared:
        folder, method = min(shared)
        raise NotComparable(f"{folder} ({method}) stands on both sides; give two methods")
    for run in (*a[1:], *b):
        require_same_test(a[0], run)
    num_videos = len(np.unique(a[0].directions["t2v"].video_ids))
    if num_videos < 2:
        raise NotComparable(f"{a[0].folder} has queries of {num_videos} video; 2 are needed")


def _differences(
    a: Sequence[FinishedRun], b: Sequence[FinishedRun], direction: str
) -> list[Difference]:
    video = np.unique(_queries(a, direction).video_ids, return_inverse=True)[1]
    hits_a, hits_b = ([_hits(runs, direction, k) for k in _RECALL_AT] for runs in (a, b))
    if len(a) == len(b) == 1:
        one_a, one_b = (np.stack([hits[0] for hits in h], axis=1) for h in (hits_a, hits_b))
        return compare_runs(one_a, one_b, video, resamples=_RESAMPLES, seed=_BOOTSTRAP_SEED)
    return [compare_seeds(ours, theirs, video) for ours, theirs in zip(hits_a, hits_b, strict=True)]


def _mcnemar(a: Sequence[FinishedRun], b: Sequence[FinishedRun], direction: str) -> dict[str, Any]:
    """Return the exact test on hits at 1, or ``{"why not": reason}``."""
    if len(a) > 1 or len(b) > 1:
        return {"why not": "several runs of a method"}
    video_ids = _queries(a, direction).video_ids
    several = len(video_ids) - len(np.unique(video_ids))
    if several:
        return {"why not": f"{len(video_ids):,} queries of {len(video_ids) - several:,} videos"}
    hits_a, hits_b = _hits(a, direction, 1)[0], _hits(b, direction, 1)[0]
    tied = int(((hits_a % 1 > 0) | (hits_b % 1 > 0)).sum())
    if tied:
        return {"why not": f"{tied:,} queries have a tie for the first place"}
    won, lost = int((hits_a > hits_b).sum()), int((hits_a < hits_b).sum())
    return {"won": won, "lost": lost, "p": mcnemar_exact(won, lost)}


def _changed_queries(
    a: Sequence[FinishedRun], b: Sequence[FinishedRun], direction: str
) -> pa.Table:
    """List the queries whose hits at 1 differ (means over seeds), the clearest first."""
    queries = _queries(a, direction)
    hit_a, hit_b = (_hits(runs, direction, 1).mean(axis=0) for runs in (a, b))
    rank_a, rank_b = (
        np.mean([run.directions[direction].ranks.expected for run in runs], axis=0)
        for runs in (a, b)
    )
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
    """Return (S, Q) hits at ``k``."""
    return np.stack([run.directions[direction].ranks.hits(k) for run in runs])


def _write_table(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        write_parquet(path, table)
    else:
        with replacing(path) as partial:
            pyarrow_csv.write_csv(table, partial)


def _result(
    a: Sequence[FinishedRun],
    b: Sequence[FinishedRun],
    differences: dict[str, list[Difference]],
    changed: dict[str, pa.Table],
    mcnemar: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    adjusted = iter(_adjusted(differences))
    result: dict[str, Any] = {
        "a": [run.name for run in a],
        "b": [run.name for run in b],
        "split": a[0].metrics["split"],
        "v2t_convention": a[0].metrics["v2t_convention"],
        "procedure": "videos" if len(a) == len(b) == 1 else "videos and seeds",
    }
    for direction in DIRECTIONS:
        rows = {
            f"R@{k}": {
                "a": _recalls(a, direction, k),
                "b": _recalls(b, direction, k),
                "difference": found.points,
                "low": found.low,
                "high": found.high,
                "p": found.p_value,
                "p Holm": next(adjusted),
                "detectable": found.detectable,
            }
            for k, found in zip(_RECALL_AT, differences[direction], strict=True)
        }
        outcomes = changed[direction]["outcome"].to_pylist()
        counts = {outcome: outcomes.count(outcome) for outcome in ("won", "lost")}
        result[direction] = {**rows, **counts, "McNemar": mcnemar[direction]}
    return result


def _recalls(runs: Sequence[FinishedRun], direction: str, k: int) -> list[float]:
    recalls: npt.NDArray[np.float64] = 100 * _hits(runs, direction, k).mean(axis=1)
    return [float(recall) for recall in recalls]


def _adjusted(differences: dict[str, list[Difference]]) -> list[float]:
    return holm([found.p_value for direction in DIRECTIONS for found in differences[direction]])


def _heading(a: Sequence[FinishedRun], b: Sequence[FinishedRun]) -> list[str]:
    lines = [
        f"{side}: {', '.join(run.name for run in runs)}" for side, runs in (("A", a), ("B", b))
    ]
    metrics = a[0].metrics
    lines.append(
        f"{metrics['split']} split, {metrics['num_texts']:,} captions, "
        f"{metrics['num_videos']:,} videos; video to text: "
        f"{metrics['v2t_convention'].replace('_', ' ')}"
    )
    if metrics["split"] == "val":
        lines.append("Note: epochs were selected on this split.")
    extractions = {run.features["extraction_id"][:12] for run in (*a, *b) if run.features}
    if len(extractions) > 1:
        lines.append(f"Note: different features: extractions {', '.join(sorted(extractions))}.")
    unrecorded = [str(run.folder) for run in (*a, *b) if not run.record]
    if unrecorded and len(a) + len(b) > 2:
        lines.append(
            f"Note: no run/record.json in {', '.join(unrecorded)}: that they are seeds of one "
            "method is not checked."
        )
    return lines


def _grid(
    a: Sequence[FinishedRun],
    b: Sequence[FinishedRun],
    differences: dict[str, list[Difference]],
) -> list[str]:
    header = ("Direction", "Metric", "A", "B", "A - B", "95 % interval", "p", "p Holm", "")
    adjusted = iter(_adjusted(differences))
    rows = []
    for direction in DIRECTIONS:
        for k, found in zip(_RECALL_AT, differences[direction], strict=True):
            p_holm = next(adjusted)
            rows.append(
                (
                    DIRECTION_TITLES[direction],
                    f"R@{k}",
                    *(_recall_cell(_recalls(runs, direction, k)) for runs in (a, b)),
                    f"{found.points:+.1f}",
                    f"{found.low:+.1f} to {found.high:+.1f}",
                    _p_cell(found.p_value),
                    _p_cell(p_holm),
                    "" if p_holm <= LEVEL else "not distinguishable",
                )
            )
    return plain_table(header, rows, num_left=2)


def _recall_cell(recalls: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(recalls):.1f}" if len(recalls) > 1 else ""
    return f"{statistics.mean(recalls):.1f}{spread}"


def _p_cell(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _p_words(p: float) -> str:
    return _p_cell(p) if p < 0.001 else f"= {_p_cell(p)}"


def _how(a: Sequence[FinishedRun], b: Sequence[FinishedRun]) -> str:
    holm_words = "p Holm is adjusted for the six rows."
    if len(a) == len(b) == 1:
        return (
            f"Interval and p: paired bootstrap over videos, {_RESAMPLES:,} resamples. {holm_words} "
            "One run each: the noise of the seeds is not in it, so it speaks of these two runs, "
            "not of the methods; give further seeds with --also-a and --also-b."
        )
    fixed = [name for name, runs in (("A", a), ("B", b)) if len(runs) == 1]
    caveat = f" {fixed[0]} is one run, taken as it is: no noise of its seed." if fixed else ""
    return (
        f"Interval and p: Student's t over videos and seeds ({len(a)} of A, {len(b)} of B). "
        f"{holm_words} ± is the standard deviation over seeds.{caveat}"
    )


def _mcnemar_words(found: dict[str, Any]) -> str:
    if "why not" in found:
        return f"McNemar's exact test does not apply ({found['why not']})."
    return (
        f"McNemar's exact test on hits at 1: {found['won']:,} won, {found['lost']:,} lost, "
        f"p {_p_words(found['p'])}."
    )


def _resolution(
    a: Sequence[FinishedRun],
    b: Sequence[FinishedRun],
    differences: dict[str, list[Difference]],
) -> list[str]:
    found = differences["t2v"][0]
    lines = [
        "Smallest text-to-video R@1 difference that these runs on this test set could show: "
        f"{found.half_width:.1f} points; a true one of {found.detectable:.1f} is found four times "
        "of five."
    ]
    if len(a) == len(b) == 1 and found.half_width > _PUBLISHED_GAIN:
        lines.append(
            "Gains of 1 to 2 points from single runs, as they are published on 1,000 queries, are "
            "inside this noise."
        )
    return lines


def _changed_lines(direction: str, changed: pa.Table) -> list[str]:
    rows = changed.to_pylist()
    lines = []
    for outcome in ("won", "lost"):
        of_outcome = [row for row in rows if row["outcome"] == outcome]
        shown = "; ".join(
            f"{row['query_id']} (rank {format_rank(row['rank_a'])} in A, "
            f"{format_rank(row['rank_b'])} in B)"
            for row in of_outcome[:_SHOWN]
        )
        more = "; ..." if len(of_outcome) > _SHOWN else ""
        lines.append(
            f"{DIRECTION_TITLES[direction]}, {outcome} by A: {len(of_outcome):,}"
            + (f": {shown}{more}" if shown else "")
        )
    return lines
