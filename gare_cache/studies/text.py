"""Plan and table of a study as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gare_cache.errors import counted
from gare_cache.reports.pages.plain_table import plain_table
from gare_cache.reports.protocol import protocol_lines
from gare_cache.studies.expansion import Variant
from gare_cache.studies.plan import PlannedRun, duration_text, seconds_left
from gare_cache.studies.report.table import metric_title, terminal_table
from gare_cache.studies.result import StudyResult
from gare_cache.studies.setting_keys import setting_text
from gare_cache.studies.study import Study
from gare_cache.studies.table import StudyRow, smallest_visible

_LONGEST_CHANGES = 90


def plan_lines(
    study: Study,
    variants: Sequence[Variant],
    runs: Sequence[PlannedRun],
    *,
    jobs: int,
    trials: Mapping[str, float],
) -> list[str]:
    """Return the plan of a study as lines: variants, states of runs, remaining time."""
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
        f"{counted(len(variants), 'variant')} x {counted(len(study.seeds), 'seed')} = "
        f"{counted(len(runs), 'run')} on {study.base}; "
        f"{len(left)} to do" + (f", {time}" if left else ""),
    ]


def table_lines(result: StudyResult) -> list[str]:
    """Return the table of a study as lines, with its resolution and the failed runs."""
    shown = {"val": "Validation split", "test": "Test split, final"}[result.split]
    published = result.study.published
    return [
        f"{shown}: {result.protocol['coverage'] or 'no run is done'}; n: seeds; Selection score: "
        "mean R@1 of both directions on validation, one caption a video, by which the epoch was "
        "selected and the rows are ranked",
        *dict.fromkeys(line for card in result.cards for line in protocol_lines(card)),
        *terminal_table(result),
        *_resolution(result.rows),
        *(
            f"failed: {row.name}, seed {seed}: {reason}"
            for row in result.ranked
            for seed, reason in row.failures
        ),
        *([f"published: {published.source}. {published.note}".rstrip()] if published else []),
    ]


def _resolution(rows: Sequence[StudyRow]) -> list[str]:
    return [
        f"Smallest {metric_title(key)} difference that these runs could show (median row): "
        f"{medians['half_width']:.1f} points; a true difference of {medians['detectable']:.1f} is "
        "detected four times out of five."
        for key, medians in smallest_visible(rows).items()
    ]


def _states_text(states: Sequence[str]) -> str:
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _changes_text(changes: Mapping[str, object]) -> str:
    text = ", ".join(f"{key}={setting_text(value)}" for key, value in changes.items())
    return text if len(text) <= _LONGEST_CHANGES else f"{text[: _LONGEST_CHANGES - 3]}..."
