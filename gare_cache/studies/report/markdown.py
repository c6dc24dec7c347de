"""Markdown report of a study: the page's table, findings and grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gare_cache.reports.pages.grids import escape_markdown, markdown_grid
from gare_cache.reports.protocol import protocol_markdown
from gare_cache.studies.report.facts import study_facts
from gare_cache.studies.report.findings import (
    findings,
    outcomes_grid,
    runs_grid,
    study_notes,
    variants_grid,
)
from gare_cache.studies.report.query_table import QueryTable
from gare_cache.studies.report.table import study_markdown_table
from gare_cache.studies.result import StudyResult

OUTCOMES_NOTE = (
    "A query is won if more of the variant's runs rank the true item first than of the "
    "reference's, lost if fewer do; both: equally many and at least one; neither: none does. "
    "Queries for which either has no features are left out."
)


def render_study_markdown(result: StudyResult, tables: Mapping[str, QueryTable]) -> str:
    """Render a study's report as GitHub-flavoured Markdown.

    Args:
        result: the study and its measured rows.
        tables: by direction, how each variant answers each query.

    Returns:
        The document; sections that would be empty are left out.
    """
    question = f"{escape_markdown(result.study.question)}\n" if result.study.question else ""
    sections = [
        f"# {escape_markdown(result.heading)}\n",
        question,
        f"## Variants\n\n{study_markdown_table(result)}",
        _bullets("Findings", findings(result)),
        _bullets("Notes", study_notes(result)),
        _grid(
            "Queries won and lost", *outcomes_grid(result, tables), num_left=2, below=OUTCOMES_NOTE
        ),
        _grid("What each variant is", *variants_grid(result), num_left=99),
        _grid("Every run", *runs_grid(result), num_left=1),
        *map(protocol_markdown, result.protocol_sections),
        _grid("How it was measured", ("Fact", "Value"), study_facts(result), num_left=2),
    ]
    return "\n".join(section for section in sections if section)


def _bullets(title: str, sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    return f"## {title}\n\n" + "".join(f"* {escape_markdown(line)}\n" for line in sentences)


def _grid(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    num_left: int,
    below: str = "",
) -> str:
    if not rows:
        return ""
    words = f"\n{escape_markdown(below)}\n" if below else ""
    return f"## {title}\n\n{markdown_grid(header, rows, num_left)}{words}"
