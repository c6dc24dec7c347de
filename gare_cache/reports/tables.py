"""Result tables: the same cells as Markdown, as LaTeX (booktabs) and for the HTML page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gare_cache.evaluation.metrics import DIRECTIONS, rsum
from gare_cache.reports.content import RECALLS, ResultRow

DIRECTION_TITLES = {"t2v": "Text to video", "v2t": "Video to text"}
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

_LATEX_SPECIALS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After \\ a bracket would be read as a length and a star as "no page break".
    "[": "{[}",
    "*": "{*}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escape_markdown(text: str) -> str:
    """Escape what GitHub-flavoured Markdown would read as markup, in one line.

    Underscores inside a word stay as they are: no Markdown dialect with pipes gives them a meaning.
    """
    flat = " ".join(text.split())
    flat = re.sub(r"([\\`*{}\[\]#|~$])|(?<!\w)_|_(?!\w)", lambda found: "\\" + found[0], flat)
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def escape_latex(text: str) -> str:
    """Escape LaTeX's special characters, in one line."""
    return "".join(
        _LATEX_SPECIALS.get(character, character) for character in " ".join(text.split())
    )


def format_number(value: float, decimals: int = 1) -> str:
    """Print a number with fixed decimals, and a dash where it is not finite."""
    return f"{value:.{decimals}f}" if math.isfinite(value) else "—"


def format_rank(rank: float) -> str:
    """Print a rank: whole, or with one decimal where a tie halves it."""
    return f"{rank:,.0f}" if float(rank).is_integer() else f"{rank:,.1f}"


def format_share(part: int, whole: int) -> str:
    """Print a count with its share: ``12 of 400 (3.0 %)``."""
    share = f" ({100 * part / whole:.1f} %)" if whole else ""
    return f"{part:,} of {whole:,}{share}"


def table_cells(row: ResultRow, direction: str) -> tuple[str, ...]:
    """Print one method in one direction, unescaped.

    Args:
        row: the scored method.
        direction: ``"t2v"`` or ``"v2t"``.

    Returns:
        One string for each of ``COLUMNS``.
    """
    metrics = row.metrics[direction]
    low, high = row.intervals[direction]["R@1"]
    return (
        row.name,
        f"{row.num_queries[direction]:,}",
        "{:,} of {:,}".format(*row.coverage[direction]),
        f"{row.num_items[direction]:,}",
        format_number(metrics["R@1"]),
        f"[{format_number(low)}, {format_number(high)}]",
        *(format_number(metrics[name]) for name in (*RECALLS[1:], "MdR", "MnR")),
        f"{row.num_tied[direction]:,}",
        format_number(rsum(row.metrics)),
    )


def markdown_grid(header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1) -> str:
    """Lay out cells as a Markdown table and escape them.

    Args:
        header: column titles.
        rows: cells, as many as titles in each row.
        num_left: leading columns that hold words; the others are aligned right.

    Returns:
        The table, with a final newline.
    """
    rule = [":---" if column < num_left else "---:" for column in range(len(header))]
    body = [[escape_markdown(cell) for cell in cells] for cells in (header, *rows)]
    body.insert(1, rule)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in body)


def markdown_table(rows: Sequence[ResultRow]) -> str:
    """Print the results as a Markdown table, text to video first, with its caption below."""
    cells = [
        (DIRECTION_TITLES[direction], *table_cells(row, direction))
        for direction in DIRECTIONS
        for row in rows
    ]
    grid = markdown_grid(("Direction", *COLUMNS), cells, num_left=2)
    return f"{grid}\n{escape_markdown(CAPTION)}\n"


def latex_table(rows: Sequence[ResultRow], label: str = "tab:retrieval") -> str:
    r"""Print the results as a LaTeX ``table*`` that needs ``\usepackage{booktabs}``.

    Args:
        rows: scored methods.
        label: the table's ``\label``, printed as given.

    Returns:
        The environment, with a final newline.
    """
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape_latex(CAPTION)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(COLUMNS) - 1)}}}",
        r"\toprule",
        _latex_row(COLUMNS),
    ]
    for direction in DIRECTIONS:
        title = DIRECTION_TITLES[direction]
        lines += [r"\midrule", rf"\multicolumn{{{len(COLUMNS)}}}{{l}}{{\emph{{{title}}}}} \\"]
        lines += [_latex_row(table_cells(row, direction)) for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"
