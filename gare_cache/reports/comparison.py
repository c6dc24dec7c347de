"""Comparison of two methods as text for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gare_cache.errors import counted
from gare_cache.evaluation.comparison.methods import (
    COMPARED_AT,
    OUTCOMES,
    RESAMPLES,
    MethodComparison,
    recalls,
)
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.protocol_card import ProtocolCard
from gare_cache.reports.pages.grids import (
    DIRECTION_TITLES,
    format_change,
    format_interval,
    format_rank,
)
from gare_cache.reports.pages.plain_table import plain_table
from gare_cache.reports.protocol import protocol_lines

_SHOWN = 3
# Single-run gains of this size are published on test sets of 1,000 queries.
_PUBLISHED_GAIN = 2.0


def describe_comparison(comparison: MethodComparison) -> list[str]:
    """Return the comparison as lines: table, procedure, exact test, resolution, queries."""
    return [
        *_heading(comparison),
        "",
        *_table(comparison),
        "",
        _procedure(comparison),
        *(f"{DIRECTION_TITLES[d]}: {_mcnemar(comparison.mcnemar[d])}" for d in DIRECTIONS),
        *_resolution(comparison),
        "",
        *(line for d in DIRECTIONS for line in _changed_lines(d, comparison.changed[d])),
    ]


def _heading(comparison: MethodComparison) -> list[str]:
    a, b = comparison.a, comparison.b
    lines = [
        f"{side}: {', '.join(run.name for run in runs)}" for side, runs in (("A", a), ("B", b))
    ]
    metrics = a[0].metrics
    lines.append(
        f"{metrics['split']} split, {counted(metrics['num_texts'], 'caption')}, "
        f"{counted(metrics['num_videos'], 'video')}; video to text: "
        f"{metrics['v2t_convention'].replace('_', ' ')}"
    )
    written = [run.metrics["card"] for run in (*a, *b) if "card" in run.metrics]
    cards = map(ProtocolCard.from_json, written)
    lines += dict.fromkeys(line for card in cards for line in protocol_lines(card))
    if metrics["split"] == "val":
        lines.append("Note: epochs were selected on this split.")
    extractions = {run.features["extraction_id"][:12] for run in (*a, *b) if run.features}
    if len(extractions) > 1:
        lines.append(f"Note: different features: extractions {', '.join(sorted(extractions))}.")
    unrecorded = [str(run.folder) for run in (*a, *b) if not run.record]
    if unrecorded and len(a) + len(b) > 2:
        lines.append(
            f"Note: no run/record.json in {', '.join(unrecorded)}: whether these are seeds of one "
            "method is not checked."
        )
    return lines


def _table(comparison: MethodComparison) -> list[str]:
    header = ("Direction", "Metric", "A", "B", "A - B", "95 % interval", "p", "p Holm", "")
    rows = [
        (
            DIRECTION_TITLES[direction],
            f"R@{k}",
            *(_recall_cell(recalls(r, direction, k)) for r in (comparison.a, comparison.b)),
            format_change(difference.points),
            format_interval(difference.low, difference.high, signed=True),
            *(
                (_p_cell(difference.p_value), _p_cell(difference.p_holm))
                if difference.estimable
                else ("—", "—")
            ),
            "" if difference.distinguishable else "not distinguishable",
        )
        for direction in DIRECTIONS
        for k, difference in zip(COMPARED_AT, comparison.differences[direction], strict=True)
    ]
    return plain_table(header, rows, num_left=2)


def _recall_cell(of_runs: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(of_runs):.1f}" if len(of_runs) > 1 else ""
    return f"{statistics.mean(of_runs):.1f}{spread}"


def _p_cell(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _procedure(comparison: MethodComparison) -> str:
    a, b = comparison.a, comparison.b
    holm_words = "p Holm is adjusted for the six rows."
    if comparison.of_single_runs:
        return (
            f"Interval and p: paired bootstrap over videos, {counted(RESAMPLES, 'resample')}. "
            f"{holm_words} "
            "One run each: variation between seeds is not included, so this is about these two "
            "runs, not about the methods; give more seeds with --also-a and --also-b."
        )
    fixed = [name for name, runs in (("A", a), ("B", b)) if len(runs) == 1]
    caveat = "".join(
        f" {n} is a single run: its variation between seeds is not included." for n in fixed
    )
    return (
        f"Interval and p: Student's t over videos and seeds ({len(a)} of A, {len(b)} of B). "
        f"{holm_words} ± is the standard deviation over seeds.{caveat}"
    )


def _mcnemar(test: Mapping[str, Any]) -> str:
    if "why not" in test:
        return f"McNemar's exact test does not apply ({test['why not']})."
    p = _p_cell(test["p"])
    return (
        f"McNemar's exact test on hits at 1: {test['won']:,} won, {test['lost']:,} lost, "
        f"p {p if p.startswith('<') else f'= {p}'}."
    )


def _resolution(comparison: MethodComparison) -> list[str]:
    difference = comparison.differences["t2v"][0]
    lines = [
        "Smallest text-to-video R@1 difference that these runs on this test set could show: "
        f"{difference.half_width:.1f} points; a true difference of {difference.detectable:.1f} is "
        "detected four times out of five."
    ]
    if comparison.of_single_runs and difference.half_width > _PUBLISHED_GAIN:
        lines.append(
            "Gains of 1 to 2 points from single runs, as published on 1,000 queries, are within "
            "this noise."
        )
    return lines


def _changed_lines(direction: str, changed: pa.Table) -> list[str]:
    rows = changed.to_pylist()
    lines = []
    for outcome in OUTCOMES:
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
