"""The table of a study's variants: the same cells for terminal, page, Markdown and LaTeX."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gare_cache.evaluation.comparison.differences import Difference
from gare_cache.reports.pages.grids import (
    escape_latex,
    escape_markdown,
    format_change,
    format_interval,
    format_number,
    markdown_grid,
)
from gare_cache.reports.pages.plain_table import plain_table
from gare_cache.studies.result import COMPARED_METRICS, HEADLINE, SHOWN_METRICS, StudyResult
from gare_cache.studies.table import StudyRow

NOTHING = "—"
REFERENCE = "reference"
BETTER = "better"
WORSE = "worse"
NOT_DISTINGUISHABLE = "not distinguishable"
NO_RUN = "no finished run"
_VERDICTS = (BETTER, REFERENCE, NOT_DISTINGUISHABLE, WORSE, NOTHING, NO_RUN)
_DAGGER = "†"
_LATEX_SIGNS = {"±": r"$\pm$", NOTHING: "---", _DAGGER: r"\textsuperscript{\dag}"}
_LATEX_REASON = 90
_PUBLISHED_NOTE = (
    "They need not agree with these: published figures are often of a finetuned encoder, of a "
    "single run, and selected on the test set."
)
_MEBIBYTE = 2**20

Value = float | str | None


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        key: machine-readable name.
        title: its heading.
        cells: one string per variant, the best variant first.
        values: sort key of each cell; None sorts last.
        rising: whether the first click on the heading puts the smallest value first.
    """

    key: str
    title: str
    cells: Sequence[str]
    values: Sequence[Value]
    rising: bool = True


def study_columns(result: StudyResult) -> list[Column]:
    """Return the columns of the page's table, with rows in the order of ``result.ranked``."""
    columns = _columns(result)
    hidden = set(_difference_keys("v2t.R@1"))
    if not _has_memory(result):
        hidden.add("memory")
    return [column for key, column in columns.items() if key not in hidden]


def terminal_table(result: StudyResult) -> list[str]:
    """Return the table for a terminal: the page's cells without costs, with both directions."""
    hidden = {"seconds", "parameters", "memory"}
    columns = [column for key, column in _columns(result).items() if key not in hidden]
    rows = zip(*(column.cells for column in columns), strict=True)
    return plain_table([column.title for column in columns], list(rows), num_left=1)


def _columns(result: StudyResult) -> dict[str, Column]:
    """Return all columns by key."""
    rows = result.ranked
    columns: dict[str, Column] = {}

    def add(
        key: str,
        title: str,
        value: Callable[[StudyRow], Value],
        cell: Callable[[StudyRow], str],
        rising: bool = True,
    ) -> None:
        columns[key] = Column(key, title, [*map(cell, rows)], [*map(value, rows)], rising)

    add("variant", "Variant", lambda row: row.name.lower(), lambda row: row.name)
    add("rank", "Rank", lambda row: row.rank, lambda row: _whole(row.rank))
    add("n", "n", lambda row: len(row.runs), _runs_cell, rising=False)
    add("validation", "Selection score", lambda row: row.validation_score, _validation_cell, False)
    for name in SHOWN_METRICS:
        add(name, metric_title(name), _mean(name), _mean_cell(name), rising=False)
        if any(name in row.published for row in rows):
            title = f"{metric_title(name)} published"
            add(f"published.{name}", title, _published(name), _published_cell(name), False)
    for metric in COMPARED_METRICS:
        points, interval, p = _difference_keys(metric)
        title = f"Difference in {metric_title(metric)}"
        add(points, title, _of(metric, _points), _cell_of(metric, _points_cell), False)
        add(interval, "95 % interval", _of(metric, _low), _cell_of(metric, _interval), False)
        add(p, "p Holm", _of(metric, _p), _cell_of(metric, _p_cell))
    add(
        "verdict",
        "Against the reference",
        lambda row: _VERDICTS.index(verdict(row, result)),
        lambda row: verdict(row, result),
    )
    add("seconds", "Seconds", lambda row: row.seconds, seconds_cell)
    add("parameters", "Parameters", lambda row: row.parameters, _parameters_cell)
    add("memory", "Peak memory (MiB)", lambda row: row.peak_memory_bytes, _memory_cell)
    return columns


def _difference_keys(metric: str) -> tuple[str, str, str]:
    """Return the keys of a difference's columns, short ones for the headline metric."""
    ending = "" if metric == HEADLINE else f".{metric}"
    return f"points{ending}", f"low{ending}", f"p{ending}"


def metric_title(name: str) -> str:
    """Print a metric's name: ``t2v.R@1`` as ``t2v R@1``."""
    return name.replace(".", " ")


def verdict(variant: StudyRow, result: StudyResult) -> str:
    """Return the verdict on a variant against the reference in text-to-video R@1."""
    if not variant.runs:
        return NO_RUN
    if variant.name == result.reference:
        return REFERENCE
    difference = variant.differences.get(HEADLINE)
    if difference is None:
        return NOTHING
    if not difference.distinguishable:
        return NOT_DISTINGUISHABLE
    return BETTER if difference.points > 0 else WORSE


def caption(result: StudyResult) -> str:
    """Return the caption of the table."""
    single = all(len(variant.runs) < 2 for variant in result.rows)
    over = "videos" if single else "videos and seeds"
    spread = "" if single else "± is the standard deviation over the n runs (seeds) of a variant. "
    sentences = (
        f"{result.split_title.capitalize()}. Rank is by the selection score on "
        "validation (mean R@1 of both directions, one caption a video); rows that tie share it. "
        f"R@K in percent, mean "
        f"over n runs. {spread}"
        f'Difference: text-to-video R@1 minus that of "{result.reference}", with its 95 % '
        f"interval over {over}; p Holm is adjusted for the number of comparisons, and a difference "
        "that it does not support is marked not distinguishable."
    )
    if single:
        sentences += " One run each: intervals do not include variation between seeds."
    if not _has_memory(result):
        sentences += " The peak memory is not measured on this device."
    published = result.study.published
    if published:
        sentences += f" Published: {published.source}. {published.note or _PUBLISHED_NOTE}"
    return sentences.strip()


def study_markdown_table(result: StudyResult) -> str:
    """Print the table as Markdown with its caption below; failed runs are rows."""
    columns = study_columns(result)
    width = len(columns)
    where = [column.key for column in columns].index("verdict")
    rows: list[list[str]] = []
    for place, variant in enumerate(result.ranked):
        rows.append([column.cells[place] for column in columns])
        for seed, reason in variant.failures:
            failed = [f"{variant.name}, seed {seed}", *[NOTHING] * (width - 1)]
            failed[where] = f"failed: {reason}"
            rows.append(failed)
    grid = markdown_grid([column.title for column in columns], rows)
    return f"{grid}\n{escape_markdown(caption(result))}\n"


def study_latex_table(result: StudyResult, label: str) -> str:
    r"""Print the table as a LaTeX ``table*`` that needs ``\usepackage{booktabs}``.

    A dagger means "not distinguishable" and replaces the page's verdict column.

    Args:
        result: the study.
        label: the table's ``\label``, printed as given.

    Returns:
        The environment, with a final newline.
    """
    columns = [column for column in study_columns(result) if column.key != "verdict"]
    key = f"{_DAGGER}: {NOT_DISTINGUISHABLE} from the reference."
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_latex(f'{caption(result)} {key}')}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\toprule",
        _latex_row([column.title for column in columns]),
        r"\midrule",
    ]
    for place, variant in enumerate(result.ranked):
        of_row = verdict(variant, result)
        cells = [column.cells[place] for column in columns]
        if of_row == REFERENCE:
            cells[0] += f" ({REFERENCE})"
        if of_row == NOT_DISTINGUISHABLE:
            cells[[column.key for column in columns].index("p")] += _DAGGER
        lines.append(_latex_row(cells))
        for seed, reason in variant.failures:
            words = textwrap.shorten(reason, _LATEX_REASON, placeholder=" ...")
            rest = rf"\multicolumn{{{len(columns) - 1}}}{{l}}{{{_latex(f'failed: {words}')}}}"
            lines.append(rf"{_latex(f'{variant.name}, seed {seed}')} & {rest} \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def format_p(p: float) -> str:
    """Format a p-value with three decimals, small ones as a bound."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def mean_with_std(variant: StudyRow, metric: str) -> str:
    """Format mean and standard deviation as ``41.2 ± 0.5``; only the mean for one run."""
    if metric not in variant.mean:
        return NOTHING
    known = metric in variant.std and math.isfinite(variant.std[metric])
    spread = f" ± {variant.std[metric]:.1f}" if known else ""
    return f"{format_number(variant.mean[metric])}{spread}"


def seconds_cell(variant: StudyRow) -> str:
    """Format a variant's mean time, with one decimal below a hundred seconds."""
    if variant.seconds is None:
        return NOTHING
    return f"{variant.seconds:,.{1 if variant.seconds < 100 else 0}f}"


def _has_memory(result: StudyResult) -> bool:
    return any(variant.peak_memory_bytes is not None for variant in result.rows)


def _runs_cell(variant: StudyRow) -> str:
    finished = len(variant.runs)
    return (
        f"{finished} of {finished + len(variant.failures)}" if variant.failures else f"{finished}"
    )


def _mean(metric: str) -> Callable[[StudyRow], Value]:
    return lambda variant: variant.mean.get(metric)


def _mean_cell(metric: str) -> Callable[[StudyRow], str]:
    return lambda variant: mean_with_std(variant, metric)


def _published(metric: str) -> Callable[[StudyRow], Value]:
    return lambda variant: variant.published.get(metric)


def _published_cell(metric: str) -> Callable[[StudyRow], str]:
    return lambda variant: (
        format_number(variant.published[metric]) if metric in variant.published else NOTHING
    )


def _of(metric: str, value: Callable[[Difference], Value]) -> Callable[[StudyRow], Value]:
    def of_row(row: StudyRow) -> Value:
        difference = row.differences.get(metric)
        return None if difference is None else value(difference)

    return of_row


def _cell_of(metric: str, cell: Callable[[Difference], str]) -> Callable[[StudyRow], str]:
    def of_row(row: StudyRow) -> str:
        difference = row.differences.get(metric)
        return NOTHING if difference is None else cell(difference)

    return of_row


def _points(difference: Difference) -> Value:
    return difference.points


def _low(difference: Difference) -> Value:
    return difference.low if difference.estimable else None


def _p(difference: Difference) -> Value:
    return difference.p_holm if difference.estimable else None


def _points_cell(difference: Difference) -> str:
    return format_change(difference.points)


def _interval(difference: Difference) -> str:
    return format_interval(difference.low, difference.high, signed=True)


def _p_cell(difference: Difference) -> str:
    return format_p(difference.p_holm) if difference.estimable else NOTHING


def _validation_cell(row: StudyRow) -> str:
    return NOTHING if row.validation_score is None else format_number(row.validation_score)


def _parameters_cell(variant: StudyRow) -> str:
    return _whole(variant.parameters)


def _memory_cell(variant: StudyRow) -> str:
    memory = variant.peak_memory_bytes
    return NOTHING if memory is None else f"{memory / _MEBIBYTE:,.0f}"


def _whole(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def _latex(text: str) -> str:
    escaped = escape_latex(text)
    for sign, command in _LATEX_SIGNS.items():
        escaped = escaped.replace(sign, command)
    return escaped


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"
