"""The table of a study's variants: the same cells for the page, as Markdown and as LaTeX."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gare_cache.reports.pages.grids import (
    escape_latex,
    escape_markdown,
    format_number,
    markdown_grid,
)
from gare_cache.studies.report.content import HEADLINE, METRICS, Contrast, StudyContent, Variant

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
_MEBIBYTE = 2**20

Value = float | str | None


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        key: its name for programs.
        title: its heading.
        cells: one text a variant, the best variant first.
        values: what each cell sorts by; None sorts last.
        rising: whether the first press on the heading puts the smallest value first.
    """

    key: str
    title: str
    cells: Sequence[str]
    values: Sequence[Value]
    rising: bool = True


def study_columns(content: StudyContent) -> list[Column]:
    """Lay out the table, one entry a variant in the order of ``content.ranked``."""
    rows = content.ranked

    def column(
        key: str,
        title: str,
        value: Callable[[Variant], Value],
        cell: Callable[[Variant], str],
        rising: bool = True,
    ) -> Column:
        return Column(key, title, [*map(cell, rows)], [*map(value, rows)], rising)

    columns = [
        column("variant", "Variant", lambda row: row.name.lower(), lambda row: row.name),
        column("rank", "Rank", lambda row: row.rank, lambda row: _whole(row.rank)),
        column("n", "n", lambda row: len(row.runs), _runs_cell, rising=False),
    ]
    published = [name for name in METRICS if any(name in row.published for row in rows)]
    for name in METRICS:
        title = metric_title(name)
        columns.append(column(name, title, _mean(name), _mean_cell(name), rising=False))
        if name in published:
            key, title = f"published.{name}", f"{title} published"
            columns.append(column(key, title, _published(name), _published_cell(name), False))
    headline = metric_title(HEADLINE)
    return [
        *columns,
        column(
            "points",
            f"Difference in {headline}",
            _of(lambda c: c.points),
            _cell_of(lambda c: format_change(c.points)),
            False,
        ),
        column("low", "95 % interval", _of(lambda c: c.low), _cell_of(_interval), False),
        column("p", "p Holm", _of(lambda c: c.p_holm), _cell_of(lambda c: format_p(c.p_holm))),
        column(
            "verdict",
            "Against the reference",
            lambda row: _VERDICTS.index(verdict(row, content)),
            lambda row: verdict(row, content),
        ),
        column("seconds", "Seconds", lambda row: row.seconds, lambda row: seconds_cell(row)),
        column("parameters", "Parameters", lambda row: row.parameters, _parameters_cell),
        *(
            [column("memory", "Peak memory (MiB)", lambda row: row.peak_memory_bytes, _memory_cell)]
            if _has_memory(content)
            else []
        ),
    ]


def metric_title(name: str) -> str:
    """Print a metric's name: ``t2v.R@1`` as ``t2v R@1``."""
    return name.replace(".", " ")


def verdict(variant: Variant, content: StudyContent) -> str:
    """Say in a word how a variant stands against the reference in text-to-video R@1."""
    if not variant.runs:
        return NO_RUN
    if variant.name == content.reference:
        return REFERENCE
    found = variant.contrasts.get(HEADLINE)
    if found is None:
        return NOTHING
    if not found.distinguishable:
        return NOT_DISTINGUISHABLE
    return BETTER if found.points > 0 else WORSE


def caption(content: StudyContent) -> str:
    """Say what the table shows and how to read it."""
    single = all(len(variant.runs) < 2 for variant in content.variants)
    over = "videos" if single else "videos and seeds"
    spread = "" if single else "± is the standard deviation over the n runs (seeds) of a variant. "
    sentences = (
        f"{content.split_title.capitalize()}. Rank is by validation score. R@K in percent, mean "
        f"over n runs. {spread}"
        f'Difference: text-to-video R@1 minus that of "{content.reference}", with its 95 % '
        f"interval over {over}; p Holm is adjusted for the number of comparisons, and a difference "
        "that it does not support is marked not distinguishable."
    )
    if single:
        sentences += " One run each: the noise of the seed is in no interval."
    if not _has_memory(content):
        sentences += " The peak memory is not measured on this device."
    if content.published_source:
        sentences += f" Published: {content.published_source}. {content.published_note}"
    return sentences.strip()


def study_markdown_table(content: StudyContent) -> str:
    """Print the table as Markdown with its caption below; failed runs are rows."""
    columns = study_columns(content)
    width = len(columns)
    where = [column.key for column in columns].index("verdict")
    rows: list[list[str]] = []
    for place, variant in enumerate(content.ranked):
        rows.append([column.cells[place] for column in columns])
        for seed, reason in variant.failures:
            failed = [f"{variant.name}, seed {seed}", *[NOTHING] * (width - 1)]
            failed[where] = f"failed: {reason}"
            rows.append(failed)
    grid = markdown_grid([column.title for column in columns], rows)
    return f"{grid}\n{escape_markdown(caption(content))}\n"


def study_latex_table(content: StudyContent, label: str) -> str:
    r"""Print the table as a LaTeX ``table*`` that needs ``\usepackage{booktabs}``.

    A dagger stands for "not distinguishable" in place of the page's column of words.

    Args:
        content: the study.
        label: the table's ``\label``, printed as given.

    Returns:
        The environment, with a final newline.
    """
    columns = [column for column in study_columns(content) if column.key != "verdict"]
    key = f"{_DAGGER}: {NOT_DISTINGUISHABLE} from the reference."
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_latex(f'{caption(content)} {key}')}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\toprule",
        _latex_row([column.title for column in columns]),
        r"\midrule",
    ]
    for place, variant in enumerate(content.ranked):
        found = verdict(variant, content)
        cells = [column.cells[place] for column in columns]
        if found == REFERENCE:
            cells[0] += f" ({REFERENCE})"
        if found == NOT_DISTINGUISHABLE:
            cells[[column.key for column in columns].index("p")] += _DAGGER
        lines.append(_latex_row(cells))
        for seed, reason in variant.failures:
            words = textwrap.shorten(reason, _LATEX_REASON, placeholder=" ...")
            rest = rf"\multicolumn{{{len(columns) - 1}}}{{l}}{{{_latex(f'failed: {words}')}}}"
            lines.append(rf"{_latex(f'{variant.name}, seed {seed}')} & {rest} \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def format_change(points: float) -> str:
    """Print a signed difference with one decimal; what rounds to 0 is ``+0.0``."""
    return f"{round(points, 1) + 0.0:+.1f}"


def format_p(p: float) -> str:
    """Print a p-value with three decimals, and small ones as a bound."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def mean_with_std(variant: Variant, metric: str) -> str:
    """Print ``41.2 ± 0.5``, without the second part where there is one run."""
    if metric not in variant.mean:
        return NOTHING
    spread = f" ± {variant.std[metric]:.1f}" if metric in variant.std else ""
    return f"{format_number(variant.mean[metric])}{spread}"


def seconds_cell(variant: Variant) -> str:
    """Print a variant's mean time: one decimal below a hundred seconds."""
    if variant.seconds is None:
        return NOTHING
    return f"{variant.seconds:,.{1 if variant.seconds < 100 else 0}f}"


def _has_memory(content: StudyContent) -> bool:
    return any(variant.peak_memory_bytes is not None for variant in content.variants)


def _runs_cell(variant: Variant) -> str:
    finished = len(variant.runs)
    return (
        f"{finished} of {finished + len(variant.failures)}" if variant.failures else f"{finished}"
    )


def _mean(metric: str) -> Callable[[Variant], Value]:
    return lambda variant: variant.mean.get(metric)


def _mean_cell(metric: str) -> Callable[[Variant], str]:
    return lambda variant: mean_with_std(variant, metric)


def _published(metric: str) -> Callable[[Variant], Value]:
    return lambda variant: variant.published.get(metric)


def _published_cell(metric: str) -> Callable[[Variant], str]:
    return lambda variant: (
        format_number(variant.published[metric]) if metric in variant.published else NOTHING
    )


def _of(value: Callable[[Contrast], float]) -> Callable[[Variant], Value]:
    def of_variant(variant: Variant) -> Value:
        found = variant.contrasts.get(HEADLINE)
        return None if found is None else value(found)

    return of_variant


def _cell_of(cell: Callable[[Contrast], str]) -> Callable[[Variant], str]:
    def of_variant(variant: Variant) -> str:
        found = variant.contrasts.get(HEADLINE)
        return NOTHING if found is None else cell(found)

    return of_variant


def _points(found: Contrast) -> str:
    return format_change(found.points)


def _interval(found: Contrast) -> str:
    return f"[{format_change(found.low)}, {format_change(found.high)}]"


def _parameters_cell(variant: Variant) -> str:
    return _whole(variant.parameters)


def _memory_cell(variant: Variant) -> str:
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
