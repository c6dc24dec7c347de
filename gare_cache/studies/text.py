"""A study's plan and table as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gare_cache.reports.pages.plain_table import plain_table
from gare_cache.studies.expansion import Variant
from gare_cache.studies.plan import PlannedRun, duration_text, seconds_left
from gare_cache.studies.setting_keys import setting_text
from gare_cache.studies.study import Study
from gare_cache.studies.table import RowDifference, TableRow, smallest_visible

_LONGEST_CHANGES = 90
NOT_DISTINGUISHABLE = "not distinguishable"


def plan_lines(
    study: Study,
    variants: Sequence[Variant],
    runs: Sequence[PlannedRun],
    *,
    jobs: int,
    trials: Mapping[str, float],
) -> list[str]:
    """Show what a study trains, what of it is done, and how long the rest takes."""
    rows = []
    for number, variant in enumerate(variants, start=1):
        states = [run.state for run in runs if run.variant == variant.name]
        rows.append(
            (str(number), variant.name, _changes_text(variant.changes), _states_text(states))
        )
    left = [run for run in runs if run.is_left]
    seconds = seconds_left(runs, jobs=jobs, trials=trials)
    time = "unknown until a run is done" if seconds is None else f"about {duration_text(seconds)}"
    time += f" with {jobs} at a time" if jobs > 1 else ""
    return [
        *filter(None, (f"{study.name}: {study.title}" if study.title else study.name,)),
        *filter(None, (study.question,)),
        "",
        *plain_table(("#", "variant", "changes", "runs"), rows, num_left=4),
        "",
        f"{len(variants)} variants x {len(study.seeds)} seeds = {len(runs)} runs on {study.base}; "
        f"{len(left)} to do" + (f", {time}" if left else ""),
    ]


def table_lines(
    study: Study, rows: Sequence[TableRow], *, split: str, coverage: str | None
) -> list[str]:
    """Show the table: every row with its n, its spread and what it differs by."""
    shown = {"val": "Validation split", "test": "Test split, final"}[split]
    published = None if study.published is None else study.published
    header = ["", "variant", "n", "val", *(f"t2v R@{k}" for k in (1, 5, 10)), "v2t R@1"]
    header += ["t2v - reference", "p Holm", "v2t - reference", "p Holm", ""]
    header += ["published"] if published else []
    cells = []
    for row in rows:
        line = ["" if row.rank is None else str(row.rank), row.variant, str(row.n)]
        line.append("" if row.validation_score is None else f"{row.validation_score:.1f}")
        line += [_score(row, key) for key in ("t2v.R@1", "t2v.R@5", "t2v.R@10", "v2t.R@1")]
        for key in ("t2v.R@1", "v2t.R@1"):
            line += _difference(row, study.reference, key)
        line.append(_verdict(row))
        if published:
            value = published.rows.get(row.variant, {}).get("t2v.R@1")
            line.append("" if value is None else f"{value:.1f}")
        cells.append(line)
    failures = [f"{row.variant}, {reason}" for row in rows for reason in row.failed]
    return [
        f"{shown}: {coverage or 'no run is done'}; n: seeds; val: validation score, by which the "
        "epoch was selected and the rows are ranked",
        *plain_table(header, cells, num_left=2),
        *_resolution(rows),
        *(f"failed: {line}" for line in failures),
        *([f"published: {published.source}. {published.note}".rstrip()] if published else []),
    ]


def _score(row: TableRow, key: str) -> str:
    if not row.n:
        return ""
    spread = "" if row.std is None else f" ± {row.std[key]:.1f}"
    return f"{row.mean[key]:.1f}{spread}"


def _difference(row: TableRow, reference: str, key: str) -> list[str]:
    if row.variant == reference:
        return ["reference", ""]
    if row.difference is None:
        return ["", ""]
    difference: RowDifference = row.difference[key]
    found = difference.found
    text = f"{found.points:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
    p = "< 0.001" if difference.p_holm < 0.001 else f"{difference.p_holm:.3f}"
    return [text, p]


def _verdict(row: TableRow) -> str:
    """Say in which directions a row can be told from the reference."""
    if row.difference is None:
        return ""
    seen = [key[:3] for key, difference in row.difference.items() if difference.distinguishable]
    return f"differs in {' and '.join(seen)}" if seen else NOT_DISTINGUISHABLE


def _resolution(rows: Sequence[TableRow]) -> list[str]:
    return [
        f"Smallest {key} difference that these runs could show (median row): "
        f"{found['half_width']:.1f} points; a true one of {found['detectable']:.1f} is found four "
        "times of five."
        for key, found in smallest_visible(rows).items()
    ]


def _states_text(states: Sequence[str]) -> str:
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _changes_text(changes: Mapping[str, object]) -> str:
    text = ", ".join(f"{key}={setting_text(value)}" for key, value in changes.items())
    return text if len(text) <= _LONGEST_CHANGES else f"{text[: _LONGEST_CHANGES - 3]}..."
