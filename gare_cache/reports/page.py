"""Self-contained HTML report of a run, with embedded styles, plots and thumbnails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from gare_cache.errors import counted
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.reports import analysis_plots, plots, sections, tables
from gare_cache.reports.browser import browser_data, worst_first
from gare_cache.reports.content import Hubness, ReportContent, ResultRow, VideoCell
from gare_cache.reports.markdown import FAILURE_HEADER, WITHOUT_FEATURES, epoch_grid
from gare_cache.reports.pages.album import make_album
from gare_cache.reports.pages.grids import DIRECTION_TITLES
from gare_cache.reports.pages.html import Plot, csp_digest, page_environment, read_script

_HUBS_SHOWN = 12
_ROOM = Path(__file__).parent


def render_html(content: ReportContent) -> str:
    """Render a report as one self-contained HTML page.

    Args:
        content: of the report.

    Returns:
        The document; equal content gives equal text. Its content security policy forbids all
        requests and all scripts except the query browser's.
    """
    header, epoch_rows = epoch_grid(content.epochs, content.best_epoch)
    script = read_script(_ROOM / "browser.js")
    environment = page_environment(_ROOM)
    environment.tests["video_cell"] = lambda cell: isinstance(cell, VideoCell)
    album = make_album(content.pictures, _shown_videos(content))
    return environment.get_template("page.html").render(
        content=content,
        columns=tables.COLUMNS,
        table_caption=tables.table_caption(content.methods),
        failures=(WITHOUT_FEATURES, FAILURE_HEADER),
        groups=_groups(content.rows),
        alternative_groups=_groups(content.alternative_rows),
        result_plots=list(_result_plots(content)),
        hub_plots=list(_hub_plots(content)),
        hub_grid=sections.hubness_grid(content.hubness),
        hubs=_head_hubs(content),
        gap_plots=list(_gap_plots(content)),
        gap_grid=sections.gap_grid(content.gaps),
        gap_sentences=sections.gap_sentences(content.gaps, content.without_gap),
        training_plots=list(_training_plots(content)),
        epoch_header=header,
        epoch_rows=epoch_rows,
        album=album,
        browser=browser_data(content.queries, content.captions, album.classes),
        script=Markup(script),
        script_digest=csp_digest(script),
    )


def _groups(rows: Sequence[ResultRow]) -> list[tuple[str, list[tuple[str, ...]]]]:
    if not rows:
        return []
    return [
        (DIRECTION_TITLES[direction], [tables.table_cells(row, direction) for row in rows])
        for direction in DIRECTIONS
    ]


def _shown_videos(content: ReportContent) -> Iterator[str]:
    """Yield the ids of the shown videos, those visible without JavaScript first."""
    for example in (*content.best, *content.worst):
        yield from (video.video_id for video in example.retrieved)
    for hubs in _head_hubs(content):
        if hubs.direction == "t2v":
            yield from (hub.item_id for hub in hubs.hubs[:_HUBS_SHOWN])
    for kind in (*content.leaks, *content.duplicates):
        for row in kind.examples:
            yield from (cell.video_id for cell in row if isinstance(cell, VideoCell))
    for query in worst_first(content.queries):
        yield query.video_id
        if query.direction == "t2v":
            yield from query.retrieved


def _training_plots(content: ReportContent) -> Iterator[Plot]:
    epochs, best = content.epochs, content.best_epoch
    if not epochs:
        return
    if plots.validation_recalls(epochs):
        yield Plot("Selection R@1", Markup(plots.validation_curve(epochs, best)))
    for term in dict.fromkeys(name for epoch in epochs for name in epoch.losses):
        yield Plot(f"Loss: {term}", Markup(plots.loss_curve(epochs, term, best)))
    yield Plot("Learning rate schedule", Markup(plots.learning_rate_curve(epochs, best)))


def _result_plots(content: ReportContent) -> Iterator[Plot]:
    for direction, by_method in content.ranks.items():
        yield Plot(
            f"Ranks, {DIRECTION_TITLES[direction].lower()}",
            Markup(
                plots.rank_histogram(by_method, content.rows[-1].scores[direction].items, direction)
            ),
            "Queries with features; a tie counts at its middle.",
        )
    if content.rows:
        yield Plot(
            "R@1 with intervals",
            Markup(plots.recall_intervals(content.rows)),
            "Overlapping intervals do not settle a comparison; a paired test does.",
        )
    if content.similarity.size:
        yield Plot(
            "Similarity matrix",
            Markup(plots.similarity_matrix(content.similarity, content.true_video)),
            _matrix_caption(content),
        )


def _matrix_caption(content: ReportContent) -> str:
    num_videos = len(set(content.true_video.tolist()))
    shown = f"{counted(num_videos, 'video')}"
    if num_videos > plots.MAX_VIDEOS_SHOWN:
        shown = f"{plots.MAX_VIDEOS_SHOWN:,} of {num_videos:,} videos, evenly spaced,"
    return f"{shown} with the first text of each; true pairs lie on the diagonal."


def _hub_plots(content: ReportContent) -> Iterator[Plot]:
    for direction in DIRECTIONS:
        of_direction = [entry for entry in content.hubness if entry.direction == direction]
        if of_direction:
            yield Plot(
                f"Items found, {DIRECTION_TITLES[direction].lower()}",
                Markup(analysis_plots.occurrence_curve(of_direction)),
            )


def _head_hubs(content: ReportContent) -> list[Hubness]:
    """Return the hubs of the last method, the head, in each direction."""
    last = content.hubness[-1].method if content.hubness else None
    return [entry for entry in content.hubness if entry.method == last]


def _gap_plots(content: ReportContent) -> Iterator[Plot]:
    if not content.gaps:
        return
    limits = analysis_plots.common_limits(content.gaps)
    for gap in content.gaps:
        shown = len(next(iter(gap.points.values())))
        some = "all" if shown == gap.num_pairs else f"{shown:,} evenly spaced of"
        yield Plot(
            gap.method.capitalize(),
            Markup(analysis_plots.gap_scatter(gap, limits)),
            f"Vectors of length 1 of {some} {counted(gap.num_pairs, 'matched pair')}; the large "
            "marks are "
            f"means. The vertical axis holds {100 * gap.second_share:.1f} % of the variance "
            "around the two means.",
        )
