"""The report as one HTML file that makes no request: styles, plots and thumbnails lie within it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from gare_cache.reports import plots, tables
from gare_cache.reports.content import DIRECTIONS, ReportContent
from gare_cache.reports.markdown import epoch_grid


@dataclass(frozen=True)
class Plot:
    """A titled figure of the page; ``caption`` says how to read it, and may be empty."""

    title: str
    svg: Markup
    caption: str = ""


def render_html(content: ReportContent) -> str:
    """Render a report as one self-contained HTML page.

    Args:
        content: everything on the page.

    Returns:
        The document; the same content gives the same text. Its content security policy forbids
        every request.
    """
    groups = [
        (
            tables.DIRECTION_TITLES[direction],
            [tables.table_cells(row, direction) for row in content.rows],
        )
        for direction in DIRECTIONS
    ]
    header, epoch_rows = epoch_grid(content.epochs, content.best_epoch)
    return (
        _environment()
        .get_template("page.html")
        .render(
            content=content,
            columns=tables.COLUMNS,
            table_caption=tables.CAPTION,
            groups=groups,
            result_plots=list(_result_plots(content)),
            training_plots=list(_training_plots(content)),
            epoch_header=header,
            epoch_rows=epoch_rows,
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["rank"] = tables.format_rank
    environment.filters["jpeg_uri"] = _jpeg_uri
    return environment


def _jpeg_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def _training_plots(content: ReportContent) -> Iterator[Plot]:
    epochs, best = content.epochs, content.best_epoch
    if not epochs:
        return
    if plots.validation_recalls(epochs):
        yield Plot("Validation R@1", Markup(plots.validation_curve(epochs, best)))
    for term in dict.fromkeys(name for epoch in epochs for name in epoch.losses):
        yield Plot(f"Loss: {term}", Markup(plots.loss_curve(epochs, term, best)))
    yield Plot("Learning rate schedule", Markup(plots.learning_rate_curve(epochs, best)))


def _result_plots(content: ReportContent) -> Iterator[Plot]:
    if content.rows:
        yield Plot(
            "R@1 with intervals",
            Markup(plots.recall_intervals(content.rows)),
            "Overlapping intervals do not settle a comparison; a paired test does.",
        )
    if content.similarity.size:
        yield Plot(
            "Rank of the true video",
            Markup(plots.rank_histogram(content.similarity, content.true_video)),
            "Text to video, from the cosine similarity of the scored head.",
        )
        yield Plot(
            "Similarity matrix",
            Markup(plots.similarity_matrix(content.similarity, content.true_video)),
            _matrix_caption(content),
        )


def _matrix_caption(content: ReportContent) -> str:
    num_videos = len(set(content.true_video.tolist()))
    shown = f"{num_videos:,} videos"
    if num_videos > plots.MAX_VIDEOS_SHOWN:
        shown = f"{plots.MAX_VIDEOS_SHOWN:,} of {num_videos:,} videos, evenly spaced,"
    return f"{shown} with the first text of each; true pairs lie on the diagonal."
