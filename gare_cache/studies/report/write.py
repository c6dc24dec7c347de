"""Write the report of a study as an HTML page, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from gare_cache.files import write_text
from gare_cache.studies.report.markdown import render_study_markdown
from gare_cache.studies.report.page import render_study_html
from gare_cache.studies.report.query_table import QueryTable
from gare_cache.studies.report.table import study_latex_table
from gare_cache.studies.result import StudyResult


def write_study_report(
    folder: Path,
    result: StudyResult,
    *,
    queries: Mapping[str, QueryTable],
    pictures: Mapping[str, bytes | None],
) -> list[Path]:
    """Write ``report.html``, ``report.md`` and ``table.tex``; the same result gives the same bytes.

    Args:
        folder: of the study.
        result: the study and its measured rows.
        queries: by direction, hits and ranks of each variant on each query.
        pictures: thumbnail (JPEG) by video id; None if a video has none.

    Returns:
        The written files.
    """
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "study"
    texts = {
        "report.html": render_study_html(result, queries, pictures),
        "report.md": render_study_markdown(result, queries),
        "table.tex": study_latex_table(result, f"tab:{name}"),
    }
    for file, text in texts.items():
        write_text(folder / file, text)
    return [folder / file for file in texts]
