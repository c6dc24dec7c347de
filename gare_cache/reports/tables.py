"""Result tables: the same cells as Markdown, LaTeX (booktabs) and HTML."""

from __future__ import annotations

from collections.abc import Sequence

from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.results import sum_of_recalls
from gare_cache.reports.content import RECALLS, ResultRow
from gare_cache.reports.pages.grids import (
    DIRECTION_TITLES,
    escape_latex,
    escape_markdown,
    format_interval,
    format_number,
    latex_row,
    markdown_grid,
)
from gare_cache.reports.pages.plain_table import plain_table

COLUMNS = (
    "Method",
    "n",
    "Coverage",
    "Gallery",
    "R@1",
    "95 % interval",
    *RECALLS[1:],
    "MdR",
    "MnR",
    "Ties",
    "RSum",
)
CAPTION = (
    "R@K in percent, higher is better; MdR and MnR are the median and mean rank, 1 is best. "
    "n counts the queries; Coverage those with features, of those listed; Gallery the items "
    "searched; Ties the queries with a tie at the true item. The interval of R@1 is a "
    "95 % bootstrap over videos. RSum = R@1 + R@5 + R@10 of both directions, so a method has one "
    "value."
)


def table_cells(row: ResultRow, direction: str) -> tuple[str, ...]:
    """Return the cells of one method in one direction, unescaped.

    Args:
        row: the scored method.
        direction: ``"t2v"`` or ``"v2t"``.

    Returns:
        One string for each of ``COLUMNS``.
    """
    scores = row.scores[direction]
    metrics = scores.metrics
    return (
        row.name,
        f"{scores.queries:,}",
        f"{scores.queries_with_features:,} of {scores.queries_listed:,}",
        f"{scores.items:,}",
        format_number(metrics["R@1"]),
        format_interval(scores.low, scores.high),
        *(format_number(metrics[name]) for name in (*RECALLS[1:], "MdR", "MnR")),
        f"{scores.tied:,}",
        format_number(sum_of_recalls(row.scores)),
    )


def table_caption(methods: str) -> str:
    """Return the caption of a table: what its rows, if that is given, and its columns are."""
    return f"{methods} {CAPTION}" if methods else CAPTION


def markdown_table(rows: Sequence[ResultRow], methods: str = "") -> str:
    """Return the results as a Markdown table, text to video first, with its caption below.

    Args:
        rows: scored methods.
        methods: sentence on what their names stand for.
    """
    grid = markdown_grid(("Direction", *COLUMNS), _by_direction(rows), num_left=2)
    return f"{grid}\n{escape_markdown(table_caption(methods))}\n"


def terminal_table(rows: Sequence[ResultRow]) -> list[str]:
    """Return the results as aligned lines, with the cells of the page."""
    return plain_table(("Direction", *COLUMNS), _by_direction(rows), num_left=2)


def latex_table(rows: Sequence[ResultRow], label: str = "tab:retrieval", methods: str = "") -> str:
    r"""Return the results as a LaTeX ``table*`` that needs ``\usepackage{booktabs}``.

    Args:
        rows: scored methods.
        label: the table's ``\label``, printed as given.
        methods: sentence on what their names stand for.

    Returns:
        The environment, with a final newline.
    """
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape_latex(table_caption(methods))}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(COLUMNS) - 1)}}}",
        r"\toprule",
        latex_row(COLUMNS),
    ]
    for direction in DIRECTIONS:
        title = DIRECTION_TITLES[direction]
        lines += [r"\midrule", rf"\multicolumn{{{len(COLUMNS)}}}{{l}}{{\emph{{{title}}}}} \\"]
        lines += [latex_row(table_cells(row, direction)) for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _by_direction(rows: Sequence[ResultRow]) -> list[tuple[str, ...]]:
    return [
        (DIRECTION_TITLES[direction], *table_cells(row, direction))
        for direction in DIRECTIONS
        for row in rows
    ]
