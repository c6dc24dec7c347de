"""Cells and grids of tables: formatted numbers, Markdown and LaTeX escapes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

Grid = tuple[Sequence[str], list[tuple[str, ...]]]

NOT_ESTIMABLE = "not estimable"
DIRECTION_TITLES = {"t2v": "Text to video", "v2t": "Video to text"}
_LATEX_SPECIALS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After \\, LaTeX would read a bracket as a length and a star as "no page break".
    "[": "{[}",
    "*": "{*}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escape_markdown(text: str) -> str:
    """Escape the markup of GitHub-flavoured Markdown and join the text to one line.

    Underscores inside a word are kept: no Markdown dialect with pipe tables treats them as markup.
    """
    flat = " ".join(text.split())
    flat = re.sub(r"([\\`*{}\[\]#|~$])|(?<!\w)_|_(?!\w)", lambda match: "\\" + match[0], flat)
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def escape_latex(text: str) -> str:
    """Escape LaTeX's special characters, in one line."""
    return "".join(
        _LATEX_SPECIALS.get(character, character) for character in " ".join(text.split())
    )


def format_number(value: float | None, decimals: int = 1) -> str:
    """Format a number with fixed decimals; a dash if there is none or it is not finite."""
    return "—" if value is None or not math.isfinite(value) else f"{value:.{decimals}f}"


def format_interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Format a 95 % interval: ``[38.1, 44.2]``, signed ``[-0.4, +1.9]``, or "not estimable"."""
    if low is None or high is None or math.isnan(low):
        return NOT_ESTIMABLE
    ends = [format_change(end) if signed else f"{end:.1f}" for end in (low, high)]
    return f"[{', '.join(ends)}]"


def format_interval_in_words(low: float | None, high: float | None) -> str:
    """Format the interval of a difference in a sentence: ``95 % interval -0.4 to +1.9``."""
    ends = format_interval(low, high, signed=True).strip("[]").replace(", ", " to ")
    return f"95 % interval {ends}"


def format_change(points: float) -> str:
    """Format a signed difference with one decimal; values that round to 0 give ``+0.0``."""
    return f"{round(points, 1) + 0.0:+.1f}"


def format_rank(rank: float) -> str:
    """Format a rank: an integer, or one decimal if a tie halves it."""
    return f"{rank:,.0f}" if float(rank).is_integer() else f"{rank:,.1f}"


def format_share(part: int, whole: int) -> str:
    """Format a count with its share: ``12 of 400 (3.0 %)``."""
    share = f" ({100 * part / whole:.1f} %)" if whole else ""
    return f"{part:,} of {whole:,}{share}"


def markdown_grid(header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1) -> str:
    """Return cells as an escaped Markdown table.

    Args:
        header: column titles.
        rows: cells, as many as titles in each row.
        num_left: leading columns that are aligned left; the others are aligned right.

    Returns:
        The table, with a final newline.
    """
    rule = [":---" if column < num_left else "---:" for column in range(len(header))]
    body = [[escape_markdown(cell) for cell in cells] for cells in (header, *rows)]
    body.insert(1, rule)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in body)


def latex_row(cells: Sequence[str]) -> str:
    """Return escaped cells as a row of a LaTeX table."""
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"
