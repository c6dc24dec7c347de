"""Figures in the common style, as SVG to embed in a page.

Equal figures give equal bytes. Text stays text, so that the page's font is used; colours are CSS
variables with the light theme's value as fallback, so that a plot is legible on a dark page and
on its own.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Series: blue, vermilion and green of Okabe and Ito's palette, distinct for every common colour
# vision.
THEME: Mapping[str, str] = {
    "#1f2428": "--plot-ink",
    "#d8dce1": "--plot-grid",
    "#0072b2": "--plot-first",
    "#d55e00": "--plot-second",
    "#009e73": "--plot-third",
    # Between the strokes of a hatched bar.
    "#ffffff": "--paper",
    # For plots with more lines, which differ in their dashes as well.
    "#b5408f": "--plot-fourth",
    "#9a7500": "--plot-fifth",
    "#7a5cd0": "--plot-sixth",
}
INK, GRID, FIRST, SECOND, THIRD, PAPER, FOURTH, FIFTH, SIXTH = THEME

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # A method's name may contain a dollar sign.
    "text.parse_math": False,
    # One minus sign in plots, tables and sentences.
    "axes.unicode_minus": False,
    "svg.hashsalt": "gare-cache",
    "image.composite_image": False,
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "hatch.color": PAPER,
    "hatch.linewidth": 1.2,
}


@contextmanager
def styled_figure(height: float = 2.6) -> Iterator[Figure]:
    """Yield a figure, ``height`` inches high, in the common style.

    matplotlib's parameters, including the user's, are replaced inside and restored on exit.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield Figure(figsize=(4.8, height), layout="constrained")


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an SVG element; call it inside ``styled_figure``.

    Args:
        figure: the figure.
        name: prefix that makes the element's ids unique within a page.
        description: what the figure shows, for screen readers.

    Returns:
        The element, as wide as its container.
    """
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].rstrip()
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    for colour, variable in THEME.items():
        svg = re.sub(f"(fill|stroke): {colour}", rf"\1: var({variable}, {colour})", svg)
    slug = re.sub(r"\W+", "-", name)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{slug}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)
