"""Figures of a diagnosis as inline SVG, drawn from the data in ``diagnosis.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from gare_cache.errors import counted
from gare_cache.reports.pages.figure import FIRST, INK, SECOND, THIRD, styled_figure, to_svg

Part = Mapping[str, Any]

_LINES = ((FIRST, "-"), (SECOND, "--"), (THIRD, "-."), (INK, ":"))
_LEGEND_COLUMNS = 2
_TITLES = {"with": "with Delta", "without": "without Delta"}


def histogram(
    name: str, part: Part, label: str, *, what: str = "pairs", reference: float | None = None
) -> str:
    """Draw distributions over shared bins as outlines, each in percent of its values.

    Args:
        name: prefix of the figure's ids.
        part: as returned by ``diagnosis.parts.distributions``.
        label: of the horizontal axis.
        what: name of the counted things.
        reference: a value to mark.

    Returns:
        An SVG element.
    """
    described = "; ".join(
        f"{series}: median {_shown(values['median'])}, 5 to 95 % {_shown(values['p5'])} to "
        f"{_shown(values['p95'])}"
        for series, values in part["series"].items()
    )
    with styled_figure(3.1) as figure:
        axes = figure.subplots()
        if reference is not None:
            axes.axvline(reference, color=INK, linewidth=1, linestyle=(0, (2, 3)))
        for (series, values), (colour, line) in zip(part["series"].items(), _LINES, strict=False):
            shares = 100 * np.array(values["counts"]) / max(1, values["n"])
            axes.stairs(
                shares,
                part["edges"],
                color=colour,
                linestyle=line,
                linewidth=1.8,
                label=_TITLES.get(series, series),
            )
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.set_ylabel(f"share of the {what} (%)")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        if len(part["series"]) > 1:
            figure.legend(loc="outside upper center", ncols=_LEGEND_COLUMNS)
        return to_svg(figure, name, f"Histogram over {label}; {described}.")


def gradient_lines(name: str, part: Part, limits: tuple[float, float]) -> str:
    """Draw the mean gradient of every dimension, sorted by the matched pair's part.

    Args:
        name: prefix of the figure's ids.
        part: ``positive``, ``negative`` and ``sum``, each (D,).
        limits: of the vertical axis.

    Returns:
        An SVG element.
    """
    order = np.argsort(part["positive"])
    titles = {"positive": "own pair", "negative": "all others", "sum": "sum"}
    styles = zip(titles.items(), (_LINES[0], _LINES[1], (INK, "-")), strict=True)
    with styled_figure(3.1) as figure:
        axes = figure.subplots()
        for (key, title), (colour, line) in styles:
            axes.plot(
                np.arange(1, len(order) + 1),
                np.array(part[key])[order],
                line,
                color=colour,
                linewidth=1.4,
                label=title,
            )
        axes.set_ylim(*limits)
        axes.set_xlabel("dimension, sorted by the own pair's gradient")
        axes.set_ylabel("mean gradient")
        figure.legend(loc="outside upper center", ncols=3)
        lengths = ", ".join(f"{titles[key]} {part['norms'][key]:.3g}" for key in titles)
        return to_svg(figure, name, f"Mean gradient by dimension; mean norms: {lengths}.")


def gradient_limits(parts: Sequence[Part]) -> tuple[float, float]:
    """Return a vertical range that holds all gradients, so that figures are comparable."""
    largest = max(abs(v) for part in parts for key in ("positive", "negative") for v in part[key])
    return -1.05 * largest or -1.0, 1.05 * largest or 1.0


def angle_curves(epochs: Sequence[Part], best_epoch: int) -> str:
    """Draw the mean angles of the increment over the epochs, with the kept epoch marked."""
    numbers = [epoch["epoch"] for epoch in epochs]
    with styled_figure(3.1) as figure:
        axes = figure.subplots()
        axes.axvline(best_epoch, color=INK, linewidth=1, linestyle=(0, (2, 3)))
        for (key, title), (colour, line) in zip(_ANGLES.items(), _LINES, strict=False):
            marker = "." if len(epochs) == 1 else None
            values = [epoch[key] for epoch in epochs]
            axes.plot(numbers, values, line, color=colour, label=title, marker=marker)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("mean angle of Delta (degrees)")
        figure.legend(loc="outside upper center", ncols=2)
        return to_svg(figure, "angles", f"Angles of Delta over {counted(len(epochs), 'epoch')}.")


def candidate_curve(direction: str, part: Part) -> str:
    """Draw the share of the head's top ten among the plain tower's first K, by K."""
    at = part["at"]
    described = ", ".join(f"K {k} {100 * shares['share']:.1f} %" for k, shares in at.items())
    titles = {"share": ("share of the ten", "o-"), "whole": ("queries with all ten", "s--")}
    with styled_figure(3.1) as figure:
        axes = figure.subplots()
        for (key, (title, line)), colour in zip(titles.items(), (FIRST, SECOND), strict=True):
            values = [100 * shares[key] for shares in at.values()]
            axes.plot([int(k) for k in at], values, line, color=colour, label=title)
        axes.set_xticks([int(k) for k in at])
        axes.set_ylim(0, 104)
        axes.set_xlabel(f"K, of {counted(part['items'], 'candidate')} of the plain tower")
        axes.set_ylabel("inside (%)")
        figure.legend(loc="outside upper center", ncols=2)
        name = f"candidates {direction}"
        return to_svg(figure, name, f"The head's first ten among the first K; {described}.")


_ANGLES = {"angle to gap": "to the gap", "angle to text": "to the text"}


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
