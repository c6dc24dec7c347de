"""Plots of a study as inline SVG: intervals by axis, learning curves, recall against cost."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from gare_cache.reports.pages.figure import (
    FIFTH,
    FIRST,
    FOURTH,
    INK,
    PAPER,
    SECOND,
    SIXTH,
    THIRD,
    styled_figure,
    to_svg,
)
from gare_cache.reports.pages.grids import format_change, format_interval
from gare_cache.studies.report.axes import AxisGroup
from gare_cache.studies.report.table import metric_title
from gare_cache.studies.result import HEADLINE, StudyResult
from gare_cache.studies.results import RunResult
from gare_cache.studies.table import StudyRow

# Lines of one panel, without the reference (ink, dashed).
LINES = (
    (FIRST, "-"),
    (SECOND, "--"),
    (THIRD, "-."),
    (FOURTH, (0, (5, 1, 1, 1, 1, 1))),
    (FIFTH, (0, (1, 1))),
    (SIXTH, (0, (7, 2))),
)
Curve = Mapping[int, float]
_Axis = Callable[[npt.ArrayLike], npt.ArrayLike]

_WRAP = 22
_LEGEND_WRAP = 24
_LONGEST_NAME = 60
_LINE_INCHES = 0.17
# Size of a label's digits at 8.5 points, and its possible offsets from the point, in inches.
_DIGIT, _LABEL_HEIGHT = 0.075, 0.13
_PLACES = tuple(
    (round(reach * math.cos(turn), 4), round(reach * math.sin(turn), 4))
    for reach in (0.14, 0.2, 0.27, 0.34)
    for turn in np.linspace(0, 2 * math.pi, 12, endpoint=False).tolist()
)


def interval_plot(result: StudyResult, axis: str, groups: Sequence[AxisGroup], metric: str) -> str:
    """Draw each value's difference from the reference with its 95 % interval, and its seeds.

    Args:
        result: the study, with a reference that has a finished run.
        axis: name of the axis; empty for plain variants.
        groups: from top to bottom, each under its title.
        metric: for example ``"t2v.R@1"``.

    Returns:
        An SVG element. The lower axis shows differences in points, the upper one the metric.
    """
    reference = result.reference_row.mean[metric]
    labels: list[str] = []
    places: list[float] = []
    titles: list[tuple[float, str]] = []
    drawn: list[tuple[float, StudyRow]] = []
    place = 0.0
    for group in groups:
        if group.title:
            titles.append((place, group.title))
            place += 1
        for value, variant in zip(group.values, group.variants, strict=True):
            mark = " (reference)" if variant.name == result.reference else ""
            label = textwrap.fill(f"{_cut(value)}{mark}", _WRAP)
            place += 0.25 * label.count("\n")
            labels.append(label)
            places.append(place)
            drawn.append((place, variant))
            place += 1 + 0.25 * label.count("\n")
        place += 0.35
    height = 1.15 + 0.27 * place
    described = "; ".join(_described(variant, metric) for _, variant in drawn)
    with styled_figure(height) as figure:
        axes = figure.subplots()
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (2, 3)))
        for y, variant in drawn:
            _draw_variant(axes, y, variant, metric, reference, result)
        axes.set_yticks(places, labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(place - 0.35, -0.8)
        for y, title in titles:
            axes.annotate(
                _cut(title),
                (0.015, y),
                xycoords=("axes fraction", "data"),
                fontsize=9.5,
                fontweight="bold",
                va="center",
            )
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(f"difference in {metric_title(metric)} (points)")
        top = axes.secondary_xaxis("top", functions=_shift(reference))
        top.xaxis.set_major_locator(MaxNLocator(6))
        top.set_xlabel(f"{metric_title(metric)} (%)")
        name = f"study {metric} {axis or 'variants'}"
        return to_svg(figure, name, f"{axis or 'Variants'}, {metric_title(metric)}: {described}.")


def curve_panels(result: StudyResult) -> list[list[StudyRow]]:
    """Divide the variants with finished runs, without the reference, into panels of at most six."""
    shown = [row for row in result.rows if row.runs and row.name != result.reference]
    count = math.ceil(len(shown) / len(LINES))
    if not count:
        return [[]]
    size, longer = divmod(len(shown), count)
    panels, start = [], 0
    for number in range(count):
        end = start + size + (number < longer)
        panels.append(shown[start:end])
        start = end
    return panels


def learning_curves(
    result: StudyResult,
    variants: Sequence[StudyRow],
    label: str,
    curve: Callable[[RunResult], Curve],
    number: int,
) -> str:
    """Draw a quantity over epochs: mean over seeds as a line, minimum to maximum as a band.

    Args:
        result: the study; its reference is drawn beside the variants.
        variants: at most six.
        label: of the vertical axis.
        curve: returns the quantity of a run by epoch.
        number: of the panel, which makes its ids unique.

    Returns:
        An SVG element.
    """
    reference = result.reference_row
    lines = [*zip(variants, LINES, strict=False)]
    if reference.runs:
        lines.append((reference, (INK, (0, (4, 3)))))
    names = [textwrap.fill(_legend(result, variant), _LEGEND_WRAP) for variant, _ in lines]
    legend_lines = sum(
        max(name.count("\n") + 1 for name in names[start : start + 2])
        for start in range(0, len(names), 2)
    )
    with styled_figure(2.5 + _LINE_INCHES * legend_lines) as figure:
        axes = figure.subplots()
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        for (variant, (colour, dashes)), name in zip(lines, names, strict=True):
            epochs, values = _stacked([curve(run) for run in variant.runs])
            if not len(epochs):
                continue
            mean = np.nanmean(values, axis=0)
            marker = "o" if len(epochs) == 1 else None
            axes.plot(epochs, mean, color=colour, linestyle=dashes, marker=marker, label=name)
            if len(values) > 1:
                low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
                axes.fill_between(epochs, low, high, color=colour, alpha=0.12, linewidth=0)
        figure.legend(loc="outside upper center", ncols=2, fontsize=8.5)
        described = ", ".join(variant.name for variant, _ in lines)
        return to_svg(figure, f"study {label} {number}", f"{label} over epochs: {described}.")


def cost_plot(
    result: StudyResult, label: str, cost: Callable[[StudyRow], float | None], name: str
) -> str:
    """Draw R@1 against a cost, one point per variant, labelled by its rank in the table.

    Args:
        result: the study.
        label: of the horizontal axis.
        cost: returns a variant's cost; variants without one are left out.
        name: prefix of the element's ids.

    Returns:
        An SVG element; its axis is logarithmic if costs differ by a factor of more than 20.
    """
    points = [
        (value, variant.mean[HEADLINE], variant)
        for variant in result.ranked
        if variant.runs and (value := cost(variant)) is not None
    ]
    with styled_figure(3.4) as figure:
        axes = figure.subplots()
        costs = [value for value, _, _ in points]
        if min(costs) > 0 and max(costs) > 20 * min(costs):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        for value, recall, variant in points:
            marker, colour = ("D", SECOND) if variant.name == result.reference else ("o", FIRST)
            axes.plot([value], [recall], marker, color=colour, markersize=6)
        axes.margins(0.12, 0.14)
        axes.set_xlabel(label)
        axes.set_ylabel(f"{metric_title(HEADLINE)} (%)")
        _number_points(figure, axes, [(x, y, str(variant.rank)) for x, y, variant in points])
        described = "; ".join(f"{row.name}: {x:g}, {y:.1f}" for x, y, row in points)
        return to_svg(figure, name, f"{label} and {metric_title(HEADLINE)}: {described}.")


def _draw_variant(
    axes: Axes, y: float, variant: StudyRow, metric: str, reference: float, result: StudyResult
) -> None:
    if not variant.runs:
        axes.annotate(
            "no finished run", (0, y), xytext=(6, 0), textcoords="offset points", va="center"
        ).set_fontsize(8.5)
        return
    is_reference = variant.name == result.reference
    colour = SECOND if is_reference else FIRST
    if len(variant.runs) > 1:
        seeds = [run.splits[result.split].metrics[metric] - reference for run in variant.runs]
        axes.plot(seeds, [y + 0.28] * len(seeds), "|", color=colour, markersize=4.5, mew=0.9)
    difference = variant.differences.get(metric)
    if difference is not None and difference.estimable:
        axes.hlines([y], difference.low, difference.high, color=colour, linewidth=2)
    filled = is_reference or (difference is not None and difference.distinguishable)
    axes.plot(
        [variant.mean[metric] - reference],
        [y],
        "D" if is_reference else "o",
        color=colour,
        markerfacecolor=colour if filled else PAPER,
        mew=1.6,
        markersize=6.5,
    )


def _described(variant: StudyRow, metric: str) -> str:
    if metric not in variant.differences:
        return f"{variant.name} {variant.mean[metric]:.1f}" if variant.runs else variant.name
    of_row = variant.differences[metric]
    interval = format_interval(of_row.low, of_row.high, signed=True)
    return f"{variant.name} {format_change(of_row.points)} {interval}"


def _shift(reference: float) -> tuple[_Axis, _Axis]:
    """Return the functions from differences to the metric, and back."""
    return (
        lambda points: np.asarray(points) + reference,
        lambda recall: np.asarray(recall) - reference,
    )


def _legend(result: StudyResult, variant: StudyRow) -> str:
    mark = " (reference)" if variant.name == result.reference else ""
    return f"{_cut(variant.name)}{mark}"


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 4]} ..."


def _stacked(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Align curves on the union of their epochs: (E,) and (S, E), NaN where a curve has none."""
    epochs = sorted({epoch for curve in curves for epoch in curve})
    values = np.array([[curve.get(epoch, np.nan) for epoch in epochs] for curve in curves])
    return np.array(epochs), values


def _number_points(figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each point's label near it, without covering a point or another label."""
    figure.draw_without_rendering()
    inches = axes.transData.transform([(x, y) for x, y, _ in points]) / figure.dpi
    taken = [(x, y, 0.1, 0.1) for x, y in inches.tolist()]
    for (x, y), (cost, recall, label) in zip(inches.tolist(), points, strict=True):
        width = _DIGIT * len(label)
        free = [
            place
            for place in _PLACES
            if not any(
                abs(x + place[0] - tx) < (width + w) / 2
                and abs(y + place[1] - ty) < (_LABEL_HEIGHT + h) / 2
                for tx, ty, w, h in taken
            )
        ]
        right, up = (free or _PLACES)[0]
        taken.append((x + right, y + up, width, _LABEL_HEIGHT))
        axes.annotate(
            label,
            (cost, recall),
            xytext=(72 * right, 72 * up),
            textcoords="offset points",
            fontsize=8.5,
            ha="center",
            va="center_baseline",
        )
