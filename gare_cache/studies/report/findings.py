"""Findings of a study as sentences, and the grids beside its table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from gare_cache.errors import agreeing, counted
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.reports.pages.grids import (
    DIRECTION_TITLES,
    Grid,
    format_change,
    format_interval_in_words,
    format_number,
)
from gare_cache.studies.report.axes import axis_groups
from gare_cache.studies.report.queries import outcome_counts
from gare_cache.studies.report.query_table import QueryTable
from gare_cache.studies.report.table import (
    NOT_DISTINGUISHABLE,
    NOTHING,
    format_p,
    mean_with_std,
    metric_title,
    seconds_cell,
)
from gare_cache.studies.result import COMPARED_METRICS, HEADLINE, StudyResult
from gare_cache.studies.table import StudyRow

_NAMED = 8
# Points, below what is printed.
_EQUAL = 0.05
_R1 = "text-to-video R@1"


def findings(result: StudyResult) -> list[str]:
    """Return sentences on the best row, distinguishable rows, each axis, cost and failures."""
    sentences = [_size(result)]
    if any(variant.runs for variant in result.rows):
        sentences += _best(result)
    sentences += [*_distinguishable(result), *_resolution(result)]
    sentences += [sentence for axis in result.axes for sentence in _axis(result, axis)]
    sentences += [*_cost(result), *_failures(result)]
    return sentences


def variants_grid(result: StudyResult) -> Grid:
    """Return a grid of the variants: axis values and changed settings."""
    rows = [
        (
            variant.name,
            *(variant.axis_values.get(axis, NOTHING) for axis in result.axes),
            "; ".join(f"{key} = {_setting(value)}" for key, value in variant.changes.items())
            or "nothing",
        )
        for variant in result.rows
    ]
    return ("Variant", *result.axes, "Changed settings"), rows


def runs_grid(result: StudyResult) -> Grid:
    """Return a grid of all runs, including failed ones, in the study's order."""
    metrics = COMPARED_METRICS
    header = ("Variant", "Seed", *map(metric_title, metrics), "Best epoch", "Seconds", "Status")
    rows: list[tuple[str, ...]] = []
    for variant in result.rows:
        finished = {
            run.seed: (
                *(_number(run.splits[result.split].metrics[name]) for name in metrics),
                NOTHING if run.best_epoch is None else str(run.best_epoch),
                _number(run.seconds),
                "done",
            )
            for run in variant.runs
        }
        failed = {
            seed: (NOTHING,) * (len(metrics) + 2) + (f"failed: {reason}",)
            for seed, reason in variant.failures
        }
        every = {**finished, **failed}
        rows += [(variant.name, str(seed), *every[seed]) for seed in sorted(every)]
    return header, rows


def outcomes_grid(result: StudyResult, tables: Mapping[str, QueryTable]) -> Grid:
    """Return a grid of the queries won and lost against the reference, in both directions."""
    header = ("Variant", "Direction", "Won", "Lost", "Both", "Neither")
    rows: list[tuple[str, ...]] = []
    for direction in DIRECTIONS:
        queries = tables.get(direction)
        if queries is None or result.reference not in queries.variants:
            continue
        place = {name: number for number, name in enumerate(queries.variants)}
        for variant in result.ranked:
            if variant.name in place and variant.name != result.reference:
                counts = outcome_counts(queries, place[variant.name], place[result.reference])
                words = DIRECTION_TITLES[direction]
                rows.append((variant.name, words, *(f"{count:,}" for count in counts)))
    return header, rows


def study_notes(result: StudyResult) -> list[str]:
    """Return the notes of a study, preceded by a caveat on validation scores."""
    notes = [_sentence(note) for note in (*result.notes, result.ledger) if note]
    if result.split == "val":
        notes.insert(
            0,
            "These are validation scores. Epochs were selected on the same split, and picking the "
            "best row selects on it once more: score the chosen row once on test.",
        )
    return notes


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}{'' if note.endswith(('.', '!', '?')) else '.'}"


def _size(result: StudyResult) -> str:
    runs = sum(len(variant.runs) for variant in result.rows)
    count = counted(len(result.rows), "variant")
    return (
        f"{count}, {counted(len(result.study.seeds), 'seed')} each: "
        f"{counted(runs, 'finished run')}, "
        f"shown on the {result.split_title}."
    )


def _best(result: StudyResult) -> list[str]:
    first = [row for row in result.ranked if row.rank == result.ranked[0].rank]
    best, reference = first[0], result.reference_row
    finished = [variant for variant in result.ranked if variant.runs]
    top = max(round(variant.mean[HEADLINE], 1) for variant in finished)
    highest = [variant for variant in finished if round(variant.mean[HEADLINE], 1) == top]
    on_split = f"The highest mean {_R1} on the {result.split_title} is that of"
    if len(first) > 1:
        return [
            f"{_named(first)} share the first rank by the selection score "
            f"({format_number(best.validation_score)}): it does not tell them apart.",
            f"{on_split} {_named(highest)}: {_described(highest[0])}.",
        ]
    sentence = f"{_quoted(best)} ranks first by the selection score: {_R1} {_described(best)}"
    difference = best.differences.get(HEADLINE)
    if best.name == result.reference:
        sentence += "; it is the reference."
    elif difference is None:
        sentence += f". It cannot be compared with the reference {_quoted(reference)}."
    else:
        verdict = "" if difference.distinguishable else f": {NOT_DISTINGUISHABLE}"
        p = f", p Holm {format_p(difference.p_holm)}" if difference.estimable else ""
        sentence += (
            f", {format_change(difference.points)} points against {_quoted(reference)}, "
            f"{format_interval_in_words(difference.low, difference.high)}{p}{verdict}."
        )
    if [variant.name for variant in highest] == [best.name]:
        return [sentence]
    return [sentence, f"{on_split} {_named(highest)}: {_described(highest[0])}."]


def _distinguishable(result: StudyResult) -> list[str]:
    compared = result.compared
    if not compared:
        return []
    told = [row for row in compared if row.differences[HEADLINE].distinguishable]
    sentence = (
        f"{len(told)} of {len(compared):,} variants can be distinguished from the "
        f"reference {_quoted(result.reference_row)} in {_R1}"
    )
    for word, sign in (("better", 1), ("worse", -1)):
        rows = [row for row in told if sign * row.differences[HEADLINE].points > 0]
        if rows:
            sentence += f"; {word}: {_named(rows)}"
    return [f"{sentence}."]


def _resolution(result: StudyResult) -> list[str]:
    differences = [variant.differences[HEADLINE] for variant in result.compared]
    differences = [difference for difference in differences if difference.estimable]
    if not differences:
        return []
    widths = [difference.half_width for difference in differences]
    true = [difference.detectable for difference in differences]
    return [
        f"The smallest difference in {_R1} that this {result.split_title} could show with these "
        f"runs is {_spread(widths)} before the adjustment for several comparisons; a true "
        f"difference of {_spread(true)} is detected four times out of five."
    ]


def _axis(result: StudyResult, axis: str) -> list[str]:
    """Compare the means of an axis' values, over all groups, or the first if some lack one."""
    groups = axis_groups(result, axis)
    complete = [
        group
        for group in groups
        if group.values == groups[0].values and all(row.runs for row in group.variants)
    ]
    if len(complete) < len(groups):
        groups = groups[:1]
    if not groups or sum(bool(row.runs) for row in groups[0].variants) < 2:
        return []
    averages = {
        value: fmean(group.variants[place].mean[HEADLINE] for group in groups)
        for place, value in enumerate(groups[0].values)
        if groups[0].variants[place].runs
    }
    if max(averages.values()) - min(averages.values()) < _EQUAL:
        return [f"{axis}: the same {_R1} at every value ({fmean(averages.values()):.1f})."]
    high, low = max(averages.values()), min(averages.values())
    over = f", mean over {len(groups)} settings of the other axes" if len(groups) > 1 else ""
    return [
        f"{axis}: highest {_R1} at {_values_at(averages, high)} ({high:.1f}), lowest at "
        f"{_values_at(averages, low)} ({low:.1f}){over}."
    ]


def _cost(result: StudyResult) -> list[str]:
    timed = [variant for variant in result.rows if variant.seconds is not None]
    if len(timed) < 2:
        return []
    fast, slow = (
        choose(timed, key=lambda variant: variant.seconds or 0.0) for choose in (min, max)
    )
    return [
        f"A run took {seconds_cell(fast)} s ({_quoted(fast)}) to {seconds_cell(slow)} s "
        f"({_quoted(slow)}) on average."
    ]


def _failures(result: StudyResult) -> list[str]:
    failed = [row for row in result.rows if row.failures]
    if not failed:
        return []
    total = sum(len(row.failures) for row in failed)
    names = ", ".join(f"{len(row.failures)} of {_quoted(row)}" for row in failed)
    return [
        f"{counted(total, 'run')} failed and {agreeing(total, 'are')} not included in any "
        f"mean: {names}."
    ]


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _values_at(averages: Mapping[str, float], level: float) -> str:
    """Name all values whose average is printed like this one."""
    shown = round(level, 1)
    return " and ".join(f'"{value}"' for value, of in averages.items() if round(of, 1) == shown)


def _named(rows: Sequence[StudyRow]) -> str:
    names = [_quoted(row) for row in rows]
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED:,} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _quoted(variant: StudyRow) -> str:
    return f'"{variant.name}"'


def _described(variant: StudyRow) -> str:
    return f"{mean_with_std(variant, HEADLINE)} (n = {len(variant.runs)})"


def _spread(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    if low == high:
        return f"{low} points"
    return f"{median(values):.1f} points ({low} to {high}, by variant)"


def _number(value: float | None) -> str:
    return NOTHING if value is None else format_number(value)
