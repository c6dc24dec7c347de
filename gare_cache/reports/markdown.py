"""Markdown report of a run: the page's text and numbers, without its pictures."""

from __future__ import annotations

from collections.abc import Sequence

from gare_cache.reports.content import (
    Epoch,
    NearDuplicates,
    QueryExample,
    ReportContent,
    TableSection,
)
from gare_cache.reports.pages.grids import escape_markdown, format_rank, markdown_grid
from gare_cache.reports.protocol import protocol_markdown
from gare_cache.reports.sections import gap_grid, gap_sentences, hubness_grid
from gare_cache.reports.tables import markdown_table

WITHOUT_FEATURES = "Videos without features"
FAILURE_HEADER = ("Annotated", "Split", "Why")


def render_markdown(content: ReportContent) -> str:
    """Render a report as GitHub-flavoured Markdown.

    Args:
        content: of the report.

    Returns:
        The document; empty sections are left out.
    """
    sections = [
        f"# {escape_markdown(content.title)}\n",
        f"**{escape_markdown(content.verdict)}**\n" if content.verdict else "",
        "".join(f"* {escape_markdown(sentence)}\n" for sentence in content.summary),
        f"## Results\n\n{_results(content)}",
        _table("Frozen and finetuned", content.finetuned, num_left=2),
        _table("Normalisers", content.normalisers, num_left=3),
        _bullets("Differences", content.differences),
        _bullets("Notes", content.notes),
        protocol_markdown(content.protocol) if content.protocol else "",
        _section(WITHOUT_FEATURES, FAILURE_HEADER, content.without_features, num_left=3),
        _section("Facts", ("Fact", "Value"), content.facts, num_left=2),
        _kinds("The same in other splits", content.leaks),
        _kinds("Near duplicates in the test set", content.duplicates),
        _section("Hubs", *hubness_grid(content.hubness), num_left=2),
        _gap(content),
        _increment(content),
        _training(content),
        _queries("Best answered queries", content.best),
        _queries("Worst answered queries", content.worst),
    ]
    return "\n".join(section for section in sections if section)


def epoch_grid(
    epochs: Sequence[Epoch], best_epoch: int
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the training curves as header and rows of cells.

    Args:
        epochs: training curves, in order.
        best_epoch: marked "kept".

    Returns:
        Header and rows, unescaped; a missing value is a dash.
    """
    losses = list(dict.fromkeys(name for epoch in epochs for name in epoch.losses))
    metrics = list(dict.fromkeys(name for epoch in epochs for name in epoch.validation))
    header = (
        "Epoch",
        *(f"loss {name}" for name in losses),
        *(f"validation {name}" for name in metrics),
        "learning rate",
    )
    rows = [
        (
            f"{epoch.epoch} (kept)" if epoch.epoch == best_epoch else str(epoch.epoch),
            *(_cell(epoch.losses.get(name), ".4f") for name in losses),
            *(_cell(epoch.validation.get(name), ".1f") for name in metrics),
            f"{epoch.learning_rate:.3g}",
        )
        for epoch in epochs
    ]
    return header, rows


def _results(content: ReportContent) -> str:
    return markdown_table([*content.rows, *content.alternative_rows], content.methods)


def _cell(value: float | None, form: str) -> str:
    return "—" if value is None else format(value, form)


def _table(title: str, section: TableSection | None, *, num_left: int) -> str:
    if section is None:
        return ""
    grid = _section(title, section.header, section.rows, num_left=num_left)
    return f"{grid}\n" + "".join(f"* {escape_markdown(note)}\n" for note in section.notes)


def _kinds(title: str, kinds: Sequence[NearDuplicates]) -> str:
    return _bullets(title, [f"{kind.title}: {kind.finding} {kind.meaning}" for kind in kinds])


def _gap(content: ReportContent) -> str:
    grid = _section("Modality gap", *gap_grid(content.gaps))
    lines = gap_sentences(content.gaps, content.without_gap)
    sentences = [f"\n{escape_markdown(line)}\n" for line in lines]
    return grid + "".join(sentences)


def _increment(content: ReportContent) -> str:
    if content.increment is None:
        return ""
    section = content.increment
    lines = [
        f"* **{escape_markdown(question)}** {escape_markdown(answer)}\n"
        for question, answer in section.answers
    ]
    link = f" [Its anatomy]({section.page}.md)." if section.page else ""
    return f"## The increment\n\n{''.join(lines)}\n{escape_markdown(section.note)}{link}\n"


def _training(content: ReportContent) -> str:
    if not content.epochs:
        return "## Training\n\nNothing was trained.\n"
    header, rows = epoch_grid(content.epochs, content.best_epoch)
    return _section("Training", header, rows)


def _queries(title: str, examples: Sequence[QueryExample]) -> str:
    rows = [
        (
            example.caption,
            ", ".join(_retrieved(example)),
            format_rank(example.true_rank),
        )
        for example in examples
    ]
    return _section(title, ("Caption", "Retrieved", "Rank of its video"), rows, num_left=2)


def _retrieved(example: QueryExample) -> list[str]:
    return [
        f"{format_rank(video.rank)}. {video.video_id} ({video.score:.3f}"
        f"{', true' if video.is_true else ''})"
        for video in example.retrieved
    ]


def _section(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1
) -> str:
    return f"## {title}\n\n{markdown_grid(header, rows, num_left)}" if rows else ""


def _bullets(title: str, sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    return f"## {title}\n\n" + "".join(f"* {escape_markdown(line)}\n" for line in sentences)
