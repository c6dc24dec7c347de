"""The report of a study as one HTML file that makes no request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from gare_cache.studies.report.content import HEADLINE, Curve, Run, StudyContent, Variant
from gare_cache.studies.report.queries import MOST_QUERY_BYTES, pack_queries
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

_ROOM = Path(__file__).parent
_PLOTTED = (HEADLINE, "v2t.R@1")
_CURVES: tuple[tuple[str, Callable[[Run], Curve]], ...] = (
    ("validation score", lambda run: run.score),
    ("total loss", lambda run: run.loss),
)
_COSTS: tuple[tuple[str, str, Callable[[Variant], float | None]], ...] = (
    ("seconds of a run", "study seconds", lambda variant: variant.seconds),
    ("trained parameters", "study parameters", lambda variant: variant.parameters),
)


def render_study_html(content: StudyContent) -> str:
    """Render a study's report as one self-contained HTML page.

    Args:
        content: everything on the page.

    Returns:
        The document; the same content gives the same text. Its content security policy forbids
        every request and every script but its own.
    """
    columns = study_columns(content)
    script = read_script(_ROOM / "study_page.js")
    wanted = pack_queries(content, {}, MOST_QUERY_BYTES).video_ids
    album = make_album(content.pictures, wanted, MOST_PICTURE_BYTES)
    comparable = any(len(queries.variants) > 1 for queries in content.queries.values())
    cost_plots, cost_words = _costs(content)
    return (
        page_environment(_ROOM)
        .get_template("study_page.html")
        .render(
            content=content,
            columns=columns,
            headline=HEADLINE,
            axis_words=[_axis_words(variant) for variant in content.ranked],
            table_caption=caption(content),
            table_json=_table_json(content, columns),
            findings=study_findings.findings(content),
            notes=study_findings.study_notes(content),
            interval_plots=list(_interval_plots(content)),
            curve_plots=list(_curve_plots(content)),
            cost_plots=cost_plots,
            cost_words=cost_words,
            settings=study_findings.variants_grid(content),
            runs=study_findings.runs_grid(content),
            outcomes=study_findings.outcomes_grid(content),
            album=album,
            packed=pack_queries(content, album.classes, MOST_QUERY_BYTES) if comparable else None,
            script=Markup(script),
            script_digest=csp_digest(script),
        )
    )


def _axis_words(variant: Variant) -> str:
    """Say a variant's values on the axes, where its name does not hold them."""
    if all(value in variant.name for value in variant.axis_values.values()):
        return ""
    return ", ".join(f"{axis} {value}" for axis, value in variant.axis_values.items())


def _table_json(content: StudyContent, columns: list[Column]) -> Markup:
    rows = [
        {
            "values": [column.values[place] for column in columns],
            "text": _searched(variant),
            "axes": dict(variant.axis_values),
            "told": verdict(variant, content) in (BETTER, WORSE, REFERENCE),
        }
        for place, variant in enumerate(content.ranked)
    ]
    return script_json(
        {
            "rows": rows,
            "rising": [column.rising for column in columns],
            "sorted": [column.key for column in columns].index("rank"),
        }
    )


def _searched(variant: Variant) -> str:
    pairs = {**variant.axis_values, **variant.changes}
    settings = [f"{key} {value}" for key, value in pairs.items()]
    return " ".join([variant.name, *settings]).lower()


def _interval_plots(content: StudyContent) -> Iterator[Plot]:
    if not content.reference_variant.runs:
        return
    drawings: list[tuple[str, list[AxisGroup]]] = [
        (axis, groups) for axis in content.axes if (groups := axis_groups(content, axis))
    ]
    others = ungrouped(content)
    if others:
        shown = [content.reference_variant, *others]
        drawings.append(("", [AxisGroup("", [one.name for one in shown], shown)]))
    for axis, groups in drawings:
        for metric in _PLOTTED:
            if metric in content.reference_variant.mean:
                title = f"{axis or 'Variants'}, {metric_title(metric)}"
                svg = study_plots.interval_plot(content, axis, groups, metric)
                yield Plot(title, Markup(svg))


def _curve_plots(content: StudyContent) -> Iterator[Plot]:
    panels = study_plots.curve_panels(content)
    for number, variants in enumerate(panels, 1):
        for label, curve in _CURVES:
            shown = [*variants, content.reference_variant]
            if any(curve(run) for variant in shown for run in variant.runs):
                part = f", panel {number} of {len(panels)}" if len(panels) > 1 else ""
                svg = study_plots.learning_curves(content, variants, label, curve, number)
                yield Plot(f"{label.capitalize()}{part}", Markup(svg))


def _costs(content: StudyContent) -> tuple[list[Plot], list[str]]:
    """Draw the costs that differ between variants, and say those that do not."""
    drawn, sentences = [], []
    for label, name, cost in _COSTS:
        costs = {value for one in content.variants if one.runs and (value := cost(one)) is not None}
        if len(costs) > 1:
            svg = study_plots.cost_plot(content, label, cost, name)
            drawn.append(Plot(f"{label.capitalize()} and {metric_title(HEADLINE)}", Markup(svg)))
        elif costs:
            sentences.append(f"All variants have the same {label}: {costs.pop():,}.")
    return drawn, sentences
