"""Plots of training and results as inline SVG."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gare_cache.errors import counted
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.reports.content import Epoch, ResultRow
from gare_cache.reports.pages.figure import FIRST, INK, SECOND, styled_figure, to_svg
from gare_cache.reports.pages.grids import DIRECTION_TITLES

DIRECTION_COLOURS = {"t2v": FIRST, "v2t": SECOND}
ITEMS = {"t2v": "video", "v2t": "caption"}
# The baseline is hatched, so that the two are distinguishable without colour.
METHOD_STYLES = ((SECOND, "///"), (FIRST, ""))
RANK_BOUNDS = (1, 5, 10, 50)
MAX_VIDEOS_SHOWN = 128


def validation_curve(epochs: Sequence[Epoch], best_epoch: int) -> str:
    """Draw the R@1 of each direction by which the epoch was selected, over the epochs.

    That is R@1 on validation with one caption a video; the kept epoch is marked.

    Args:
        epochs: training curves, in order.
        best_epoch: the epoch whose weights were kept.

    Returns:
        An SVG element.
    """
    description = (
        "R@1 on validation, one caption a video, in percent over "
        f"{counted(len(epochs), 'epoch')}; epoch "
        f"{best_epoch} kept."
    )
    with styled_figure() as figure:
        axes = _epoch_axes(figure, "selection R@1 (%)")
        _draw_kept_epoch(axes, best_epoch)
        curves = validation_recalls(epochs)
        for direction, curve in curves.items():
            axes.plot(
                list(curve),
                list(curve.values()),
                "-" if direction == "t2v" else "--",
                color=DIRECTION_COLOURS[direction],
                label=DIRECTION_TITLES[direction],
            )
        _mark_kept(axes, curves, best_epoch)
        figure.legend(loc="outside upper center", ncols=2)
        return to_svg(figure, "validation", description)


def validation_recalls(epochs: Sequence[Epoch]) -> dict[str, dict[int, float]]:
    """Collect ``{direction: {epoch: R@1}}`` of the directions that were validated.

    An entry of ``Epoch.validation`` counts if its name contains ``R@1`` and ``t2v`` or ``v2t``.
    """
    curves: dict[str, dict[int, float]] = {}
    for epoch in epochs:
        for name, value in epoch.validation.items():
            direction = next((known for known in DIRECTIONS if known in name), None)
            if direction and re.search(r"R@1(?!\d)", name):
                curves.setdefault(direction, {})[epoch.epoch] = value
    return curves


def loss_curve(epochs: Sequence[Epoch], term: str, best_epoch: int) -> str:
    """Draw one loss term, mean over each epoch, with the kept epoch marked."""
    values = [epoch.losses.get(term, np.nan) for epoch in epochs]
    return _single_curve(f"loss {term}", epochs, values, best_epoch)


def learning_rate_curve(epochs: Sequence[Epoch], best_epoch: int) -> str:
    """Draw the learning rate, with the kept epoch marked."""
    values = [epoch.learning_rate for epoch in epochs]
    return _single_curve("learning rate", epochs, values, best_epoch)


def recall_intervals(rows: Sequence[ResultRow]) -> str:
    """Draw R@1 of every method with its 95 % interval, text to video above video to text."""
    names = ", ".join(row.name for row in rows)
    labels = [textwrap.fill(row.name, 24) for row in rows] * len(DIRECTIONS)
    num_lines = max(label.count("\n") + 1 for label in labels)
    height = max(3.2, 0.9 + (0.14 + 0.17 * num_lines) * (len(labels) + 1))
    with styled_figure(height) as figure:
        axes = figure.subplots()
        axes.grid(visible=False, axis="y")
        positions: list[float] = []
        for index, direction in enumerate(DIRECTIONS):
            places = [index * (len(rows) + 0.7) + place for place in range(len(rows))]
            positions += places
            _draw_intervals(axes, rows, direction, places)
        axes.set_yticks(positions, labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(max(positions) + 0.6, -0.6)
        axes.set_xlabel("R@1 (%) and its 95 % interval")
        figure.legend(loc="outside upper center", ncols=2)
        return to_svg(figure, "intervals", f"R@1 with 95 % intervals of {names}.")


def similarity_matrix(
    similarity: npt.NDArray[np.float32],
    true_video: npt.NDArray[np.int64],
    max_videos: int = MAX_VIDEOS_SHOWN,
) -> str:
    """Draw the similarity matrix with the true pairs on the diagonal.

    Args:
        similarity: (T, V) scores.
        true_video: (T,) column of each text's video.
        max_videos: more videos are sub-sampled evenly.

    Returns:
        An SVG element with the matrix as a PNG data URI.
    """
    shown = diagonal_subset(similarity, true_video, max_videos)
    description = (
        f"Similarity of {counted(len(shown), 'text')} and their videos; true pairs on the diagonal."
    )
    with styled_figure(4.2) as figure:
        axes = figure.subplots()
        axes.grid(visible=False)
        image = axes.imshow(shown, cmap="cividis", interpolation="none")
        axes.set_xlabel("videos")
        axes.set_ylabel("texts, in the order of their videos")
        axes.set_xticks([])
        axes.set_yticks([])
        bar = figure.colorbar(image, ax=axes, shrink=0.8)
        bar.set_label("cosine similarity")
        bar.outline.set_visible(False)
        return to_svg(figure, "similarity", description)


def diagonal_subset(
    similarity: npt.NDArray[np.float32], true_video: npt.NDArray[np.int64], max_videos: int
) -> npt.NDArray[np.float32]:
    """Select the first text of each video, in the videos' order, sub-sampled evenly.

    Returns:
        (N, N) scores, N at most ``max_videos``; entry (i, i) is a true pair. For texts of videos
        ``[1, 0, 1]`` the rows are texts 1 and 0.
    """
    videos, texts = np.unique(true_video, return_index=True)
    if len(videos) > max_videos:
        kept = np.linspace(0, len(videos) - 1, max_videos).round().astype(np.int64)
        videos, texts = videos[kept], texts[kept]
    return similarity[np.ix_(texts, videos)]  # (N, N)


def rank_histogram(
    ranks: Mapping[str, npt.NDArray[np.float64]], num_items: int, direction: str
) -> str:
    """Draw the histogram of the queries' ranks; a tie counts as its mean rank.

    Args:
        ranks: ``{method: (Q,) expected ranks}``, one or two methods over the same queries.
        num_items: size of the gallery.
        direction: ``"t2v"`` or ``"v2t"``.

    Returns:
        An SVG element.
    """
    num_queries = len(next(iter(ranks.values())))
    binned = {name: _rank_bins(values, num_items) for name, values in ranks.items()}
    described = "; ".join(
        f"{name}: " + ", ".join(f"{label} {count}" for label, count in zip(*bins, strict=True))
        for name, bins in binned.items()
    )
    with styled_figure(3.4) as figure:
        axes = figure.subplots()
        axes.grid(visible=False, axis="x")
        width = 0.8 / len(binned)
        for number, (name, (labels, counts)) in enumerate(binned.items()):
            places = np.arange(len(labels)) + (number - (len(binned) - 1) / 2) * width
            colour, hatch = METHOD_STYLES[number + 2 - len(binned)]
            shares = 100 * counts / num_queries
            bars = axes.bar(places, shares, width * 0.94, color=colour, hatch=hatch, label=name)
            axes.bar_label(bars, [f"{share:.1f}" for share in shares], padding=2, fontsize=8.5)
        axes.set_xticks(range(len(labels)), labels)
        axes.margins(y=0.12)
        axes.set_xlabel(f"rank of the true {ITEMS[direction]} among {num_items:,}")
        axes.set_ylabel(f"share of {counted(num_queries, 'query')} (%)")
        figure.legend(loc="outside upper center", ncols=2)
        return to_svg(figure, f"ranks {direction}", f"Queries by rank; {described}.")


def _epoch_axes(figure: Figure, label: str) -> Axes:
    axes = figure.subplots()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    return axes


def _single_curve(
    label: str, epochs: Sequence[Epoch], values: Sequence[float], best_epoch: int
) -> str:
    numbers = [epoch.epoch for epoch in epochs]
    description = f"{label} over {counted(len(epochs), 'epoch')}; epoch {best_epoch} kept."
    with styled_figure() as figure:
        axes = _epoch_axes(figure, label.split()[0] if label.startswith("loss") else label)
        axes.plot(numbers, values, color=FIRST, marker="." if len(epochs) == 1 else None)
        _draw_kept_epoch(axes, best_epoch)
        return to_svg(figure, label, description)


def _draw_kept_epoch(axes: Axes, best_epoch: int) -> None:
    axes.axvline(best_epoch, color=INK, linewidth=1, linestyle=(0, (2, 3)))


def _mark_kept(axes: Axes, curves: Mapping[str, Mapping[int, float]], best_epoch: int) -> None:
    """Mark the kept epoch on each curve, with the lowest value below and the others above."""
    kept = [
        (curve[best_epoch], DIRECTION_COLOURS[direction])
        for direction, curve in curves.items()
        if best_epoch in curve
    ]
    for index, (value, colour) in enumerate(sorted(kept)):
        axes.plot([best_epoch], [value], "o", color=colour, markersize=6)
        axes.annotate(
            f"{value:.1f}",
            (best_epoch, value),
            xytext=(0, 6 if index else -6),
            textcoords="offset points",
            ha="center",
            va="bottom" if index else "top",
        )
    axes.margins(y=0.15)


def _draw_intervals(
    axes: Axes, rows: Sequence[ResultRow], direction: str, places: Sequence[float]
) -> None:
    centres = [row.scores[direction].metrics["R@1"] for row in rows]
    bounds = [(row.scores[direction].low, row.scores[direction].high) for row in rows]
    colour = DIRECTION_COLOURS[direction]
    axes.hlines(places, *zip(*bounds, strict=True), color=colour, linewidth=2)
    marker = "o" if direction == "t2v" else "s"
    label = DIRECTION_TITLES[direction]
    axes.plot(centres, places, marker, color=colour, markersize=6, label=label)


def _rank_bins(
    ranks: npt.NDArray[np.float64], num_items: int
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Count ranks at 1, 2-5, 6-10, 11-50 and beyond; bins beyond the gallery are left out."""
    bounds = [bound for bound in RANK_BOUNDS if bound < num_items] + [num_items]
    counts = np.bincount(np.searchsorted(bounds, ranks), minlength=len(bounds))
    starts = [1, *(bound + 1 for bound in bounds[:-1])]
    labels = [
        f"{start:,}" if start == end else f"{start:,}-{end:,}"
        for start, end in zip(starts, bounds, strict=True)
    ]
    return labels, counts
