"""Scores of a split as text for a terminal."""

from __future__ import annotations

from gare_cache.evaluation.results import SplitResult
from gare_cache.evaluation.scores import METHOD_TITLES
from gare_cache.reports.content import ResultRow
from gare_cache.reports.normalisers import describe_normalisers
from gare_cache.reports.protocol import protocol_lines
from gare_cache.reports.tables import terminal_table


def describe_scores(result: SplitResult) -> list[str]:
    """Return the report's table as lines, with coverage, under both rules if features are missing.

    Rows of normalisers follow behind.
    """
    lines = [f"{result.split}: {result.coverage}", *protocol_lines(result.card)]
    for part in filter(None, (result.headline, result.alternative)):
        if result.alternative:
            mark = " (headline)" if part is result.headline else ""
            lines.append(f"evaluate.missing: {part.missing}{mark}")
        rows = [
            ResultRow(title, part.methods[name])
            for name, title in METHOD_TITLES.items()
            if name in part.methods
        ]
        lines += terminal_table(rows)
    if result.normalisers is not None:
        lines += ["", *describe_normalisers(result.normalisers)]
    return lines
