"""Self-contained HTML report of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from markupsafe import Markup

from gare_cache.reports.pages.album import MOST_PICTURE_BYTES, make_album
from gare_cache.reports.pages.html import (
    Plot,
    csp_digest,
    page_environment,
    read_script,
    script_json,
)
from gare_cache.studies.report import findings as study_findings
from gare_cache.studies.report import plots as study_plots
from gare_cache.studies.report.axes import AxisGroup, axis_groups, ungrouped
from gare_cache.studies.report.facts import study_facts
from gare_cache.studies.report.queries import MOST_QUERY_BYTES, pack_queries
from gare_cache.studies.report.query_table import QueryTable
from gare_cache.studies.report.table import (
    BETTER,
    REFERENCE,
    WORSE,
    Column,
    caption,
    metric_title,
    study_columns,
    verdict,
)
from gare_cache.studies.result import COMPARED_METRICS, HEADLINE, StudyResult
from gare_cache.studies.results import RunResult
from gare_cache.studies.table import StudyRow

_ROOM = Path(__file__).parent
Curve = Mapping[int, float]

_CURVES: tuple[tuple[str, Callable[[RunResult], Curve]], ...] = (
    ("validation score", lambda run: run.curve("val.score")),
    ("total loss", lambda run: run.curve("loss.total")),
)
_COSTS: tuple[tuple[str, str, Callable[[StudyRow], float | None]], ...] = (
    ("seconds of a run", "study seconds", lambda variant: variant.seconds),
    ("trained parameters", "study parameters", lambda variant: variant.parameters),
)


def render_study_html(
    result: StudyResult,
    tables: Mapping[str, QueryTable],
    pictures: Mapping[str, bytes | None],
) -> str:
    """Render a study's report as one self-contained HTML page.

    Args:
        result: the study and its measured rows.
        tables: by direction, hits and ranks of each variant on each query.
        pictures: thumbnails (JPEG) by video id.

    Returns:
        The document; equal content gives equal text. Its content security policy forbids all
        requests and all scripts except the embedded one.
    """
    columns = study_columns(result)
    script = read_script(_ROOM / "study_page.js")
    wanted = pack_queries(result, tables, {}, MOST_QUERY_BYTES).video_ids
    album = make_album(pictures, wanted, MOST_PICTURE_BYTES)
    comparable = any(len(queries.variants) > 1 for queries in tables.values())
    cost_plots, cost_words = _costs(result)
    return (
        page_environment(_ROOM)
        .get_template("study_page.html")
        .render(
            result=result,
            facts=study_facts(result),
            columns=columns,
            headline=HEADLINE,
            axis_words=[_axis_words(variant) for variant in result.ranked],
            table_caption=caption(result),
            table_json=_table_json(result, columns),
            findings=study_findings.findings(result),
            notes=study_findings.study_notes(result),
            interval_plots=list(_interval_plots(result)),
            curve_plots=list(_curve_plots(result)),
            cost_plots=cost_plots,
            cost_words=cost_words,
            settings=study_findings.variants_grid(result),
            runs=study_findings.runs_grid(result),
            outcomes=study_findings.outcomes_grid(result, tables),
            album=album,
            packed=pack_queries(result, tables, album.classes, MOST_QUERY_BYTES)
            if comparable
            else None,
            script=Markup(script),
            script_digest=csp_digest(script),
        )
    )


def _axis_words(variant: StudyRow) -> str:
    """Return a variant's axis values as text, unless its name contains them."""
    if all(value in variant.name for value in variant.axis_values.values()):
        return ""
    return ", ".join(f"{axis} {value}" for axis, value in variant.axis_values.items())


def _table_json(result: StudyResult, columns: list[Column]) -> Markup:
    rows = [
        {
            "values": [column.values[place] for column in columns],
            "text": _searched(variant),
            "axes": dict(variant.axis_values),
            "told": verdict(variant, result) in (BETTER, WORSE, REFERENCE),
        }
        for place, variant in enumerate(result.ranked)
    ]
    return script_json(
        {
            "rows": rows,
            "rising": [column.rising for column in columns],
            "sorted": [column.key for column in columns].index("rank"),
        }
    )


def _searched(variant: StudyRow) -> str:
    pairs = {**variant.axis_values, **variant.changes}
    settings = [f"{key} {value}" for key, value in pairs.items()]
    return " ".join([variant.name, *settings]).lower()


def _interval_plots(result: StudyResult) -> Iterator[Plot]:
    if not result.reference_row.runs:
        return
    drawings: list[tuple[str, list[AxisGroup]]] = [
        (axis, groups) for axis in result.axes if (groups := axis_groups(result, axis))
    ]
    others = ungrouped(result)
    if others:
        shown = [result.reference_row, *others]
        drawings.append(("", [AxisGroup("", [row.name for row in shown], shown)]))
    for axis, groups in drawings:
        for metric in COMPARED_METRICS:
            if metric in result.reference_row.mean:
                title = f"{axis or 'Variants'}, {metric_title(metric)}"
                svg = study_plots.interval_plot(result, axis, groups, metric)
                yield Plot(title, Markup(svg))


def _curve_plots(result: StudyResult) -> Iterator[Plot]:
    panels = study_plots.curve_panels(result)
    for number, variants in enumerate(panels, 1):
        for label, curve in _CURVES:
            shown = [*variants, result.reference_row]
            if any(curve(run) for variant in shown for run in variant.runs):
                part = f", panel {number} of {len(panels)}" if len(panels) > 1 else ""
                svg = study_plots.learning_curves(result, variants, label, curve, number)
                yield Plot(f"{label.capitalize()}{part}", Markup(svg))


def _costs(result: StudyResult) -> tuple[list[Plot], list[str]]:
    """Draw the costs that differ between variants; return sentences on the others."""
    drawn, sentences = [], []
    for label, name, cost in _COSTS:
        costs = {value for row in result.rows if row.runs and (value := cost(row)) is not None}
        if len(costs) > 1:
            svg = study_plots.cost_plot(result, label, cost, name)
            drawn.append(Plot(f"{label.capitalize()} and {metric_title(HEADLINE)}", Markup(svg)))
        elif costs:
            sentences.append(f"All variants have the same {label}: {costs.pop():,}.")
    return drawn, sentences
