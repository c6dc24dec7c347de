"""Grids of hubness and modality gap, for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from gare_cache.reports.content import Hubness, ModalityGap
from gare_cache.reports.pages.grids import DIRECTION_TITLES, Grid, format_number, format_share


def hubness_grid(hubness: Sequence[Hubness]) -> Grid:
    """Return a row per direction and method."""
    header = (
        "Direction",
        "Method",
        "Skewness at 1",
        "Skewness at 10",
        "Never found at 1",
        "Never found at 10",
        "Most found at 10",
        "Mean at 10",
    )
    rows = [
        (
            DIRECTION_TITLES[entry.direction],
            entry.method,
            *(format_number(value) for value in entry.skewness),
            *(format_share(value, entry.num_items) for value in entry.never),
            f"{max(entry.counts, default=0):,}",
            format_number(float(entry.counts.mean())),
        )
        for entry in hubness
    ]
    return header, rows


def gap_grid(gaps: Sequence[ModalityGap]) -> Grid:
    """Return a row per method, and one for the shifted items if it has a gap module."""
    header = ("What is compared", "Cosine, matched", "Cosine, unmatched", "Distance of means")
    rows: list[tuple[str, ...]] = []
    for gap in gaps:
        numbers = gap.numbers
        shifted = "shifted_gap" in numbers
        scored = format_signed(numbers["unmatched_cosine"])
        rows.append(
            (
                f"{gap.method}: text and video",
                format_signed(numbers["cosine"]),
                "—" if shifted else scored,
                format_signed(numbers["gap"]),
            )
        )
        if shifted:
            cells = (numbers["shifted_cosine"], numbers["unmatched_cosine"], numbers["shifted_gap"])
            shift = "text + Delta and video" if gap.side == "text" else "text and video + Delta"
            rows.append((f"{gap.method}: {shift}", *(format_signed(value) for value in cells)))
    return header, rows


def gap_sentences(gaps: Sequence[ModalityGap], without_gap: Sequence[str] = ()) -> list[str]:
    """Return sentences on the increment of each method, and on the methods left out."""
    other = {"text": "video", "video": "text"}
    sentences = [
        f"{gap.method}: the increment is {format_signed(gap.numbers['delta_length'])} times as "
        f"long as the {gap.side} vector on average, and its mean cosine with {other[gap.side]} - "
        f"{gap.side} is {format_signed(gap.numbers['delta_cosine'])} "
        f"(1: it points at the {other[gap.side]})."
        for gap in gaps
        if "delta_length" in gap.numbers
    ]
    return [*sentences, *without_gap]


def format_signed(value: float | None) -> str:
    """Format a cosine or length with two decimals; a dash for None."""
    return "—" if value is None else format_number(value, 2)
