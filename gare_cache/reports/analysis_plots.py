"""Plots of hubness and of the modality gap, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from gare_cache.reports.content import Hubness, ModalityGap
from gare_cache.reports.pages.figure import FIRST, INK, SECOND, THIRD, styled_figure, to_svg
from gare_cache.reports.plots import ITEMS

SERIES = {
    "text": ("texts", FIRST, "o"),
    "video": ("videos", SECOND, "s"),
    "shifted": ("{side} + Delta", THIRD, "^"),
}
METHOD_LINES = ((SECOND, "--"), (FIRST, "-"))


def occurrence_curve(hubness: Sequence[Hubness]) -> str:
    """Draw the sorted counts of how often each item is in a query's top ten, a line per method.

    Args:
        hubness: one or two methods in one direction.

    Returns:
        An SVG element.
    """
    direction = hubness[0].direction
    described = "; ".join(
        f"{of_method.method}: skewness {of_method.skewness[1]:.1f}, at most {max(of_method.counts)}"
        for of_method in hubness
    )
    with styled_figure(3.2) as figure:
        axes = figure.subplots()
        for number, of_method in enumerate(hubness):
            colour, line = METHOD_LINES[number + 2 - len(hubness)]
            counts = np.sort(of_method.counts)[::-1]
            shares = 100 * (np.arange(len(counts)) + 0.5) / len(counts)
            axes.plot(shares, counts, line, color=colour, label=of_method.method)
        axes.set_xlim(0, 100)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"{ITEMS[direction]}s, the most found first (%)")
        axes.set_ylabel("queries that find it in 10")
        figure.legend(loc="outside upper center", ncols=2)
        return to_svg(figure, f"hubs {direction}", f"Occurrences of items; {described}.")


def gap_scatter(gap: ModalityGap, limits: tuple[float, float, float, float]) -> str:
    """Draw texts, videos and shifted items of one method in the plane of the gap.

    Args:
        gap: one method.
        limits: left, right, bottom and top of the axes.

    Returns:
        An SVG element.
    """
    points_of = {name: gap.points[name] for name in SERIES if name in gap.points}
    with styled_figure(3.8) as figure:
        axes = figure.subplots()
        axes.xaxis.set_major_locator(MaxNLocator(5))
        for name, points in points_of.items():
            label, colour, marker = SERIES[name]
            x, y = points.T
            axes.plot(
                x,
                y,
                marker,
                color=colour,
                markersize=3.2,
                alpha=0.55,
                mew=0,
                label=label.format(side=gap.side),
            )
        for name, points in points_of.items():
            _, colour, marker = SERIES[name]
            x, y = points.mean(axis=0)
            axes.plot([x], [y], marker, color=colour, markersize=11, mec=INK, mew=1.4)
        axes.set_xlim(*limits[:2])
        axes.set_ylim(*limits[2:])
        axes.set_xlabel("along the gap, from texts to videos")
        axes.set_ylabel("first component across it")
        figure.legend(loc="outside upper center", ncols=3, markerscale=2)
        shown = ", ".join(SERIES[name][0].format(side=gap.side) for name in points_of)
        return to_svg(figure, f"gap {gap.method}", f"Plane of the modality gap: {shown}.")


def common_limits(gaps: Sequence[ModalityGap]) -> tuple[float, float, float, float]:
    """Return axis limits that hold the points of all methods, so that planes are comparable."""
    points = np.concatenate([points for gap in gaps for points in gap.points.values()])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.06 * np.maximum(high - low, 1e-3)
    (left, bottom), (right, top) = low - margin, high + margin
    return float(left), float(right), float(bottom), float(top)
