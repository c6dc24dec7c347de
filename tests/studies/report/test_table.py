import dataclasses
import re

import pytest

from gare_cache.studies.report.table import (
    caption,
    format_change,
    format_p,
    study_columns,
    study_latex_table,
    study_markdown_table,
    terminal_table,
    verdict,
)
from gare_cache.studies.result import StudyResult
from tests.studies.report.sample import make_study, told, with_memory

REASON = "loss is nan & <b>50 %</b>\nin epoch 3_a"


@pytest.fixture(scope="module")
def content() -> StudyResult:
    return make_study(failed=[(4, 2, REASON), (3, 0, "x"), (3, 1, "y"), (3, 2, "z")])


def columns_of(content):
    return {column.key: column for column in study_columns(content)}


def test_every_cell_prints_its_variants_number(content):
    columns = columns_of(content)
    for place, variant in enumerate(content.ranked):
        cells = {key: column.cells[place] for key, column in columns.items()}
        assert cells["variant"] == variant.name
        if not variant.runs:
            assert cells["rank"] == cells["t2v.R@1"] == cells["points"] == cells["seconds"] == "—"
            assert cells["n"] == "0 of 3"
            continue
        assert cells["rank"] == str(place + 1)
        assert cells["n"] == ("2 of 3" if variant.name == "eps + dir" else "3")
        for metric in ("t2v.R@1", "t2v.R@5", "t2v.R@10", "v2t.R@1"):
            expected = f"{variant.mean[metric]:.1f} ± {variant.std[metric]:.1f}"
            assert cells[metric] == expected
        assert cells["parameters"] == f"{variant.parameters:,}"
        assert cells["seconds"] == f"{variant.seconds:.1f}"
        if variant.name != content.reference:
            found = variant.differences["t2v.R@1"]
            assert cells["points"] == f"{found.points:+.1f}"
            assert cells["low"] == f"[{found.low:+.1f}, {found.high:+.1f}]"
            assert cells["p"] == format_p(found.p_holm)


def test_signs_and_small_p():
    assert [format_change(value) for value in (1.25, -0.04, 0.0, -2)] == [
        "+1.2",
        "+0.0",
        "+0.0",
        "-2.0",
    ]
    assert [format_p(value) for value in (0.0009, 0.001, 1.0)] == ["< 0.001", "0.001", "1.000"]


def test_rows_run_from_the_best_to_those_without_a_run(content):
    assert columns_of(content)["t2v.R@1"].values[-1] is None
    assert columns_of(content)["rank"].values == [1, 2, 3, 4, 5, 6, None]


def test_published_numbers_stand_beside_the_measured_ones(content):
    keys = list(columns_of(content))
    assert keys[keys.index("t2v.R@1") + 1] == "published.t2v.R@1"
    assert "published.v2t.R@1" not in keys
    cells = columns_of(content)["published.t2v.R@1"].cells
    assert sorted(cells) == ["46.6", "48.1", "49.6", "—", "—", "—", "—"]
    assert "Published: GARE, arXiv:2505.12499, table 4. Finetuned encoder." in caption(content)


@pytest.mark.parametrize(
    ("points", "distinguishable", "word"),
    [
        (1.5, True, "better"),
        (-1.5, True, "worse"),
        (1.5, False, "not distinguishable"),
        (-1.5, False, "not distinguishable"),
    ],
)
def test_a_verdict_needs_the_adjusted_p(content, points, distinguishable, word):
    variant = next(one for one in content.compared)
    found = told(
        dataclasses.replace(variant.differences["t2v.R@1"], points=points), distinguishable
    )
    changed = dataclasses.replace(variant, differences={"t2v.R@1": found})
    assert verdict(changed, content) == word
    assert verdict(content.reference_row, content) == "reference"


def test_memory_is_a_column_where_any_run_measured_it(content):
    assert "memory" not in columns_of(content)
    assert "peak memory is not measured" in caption(content)
    measured = with_memory(content, 3 * 2**30)
    assert columns_of(measured)["memory"].cells[0] == "3,072"
    assert "peak memory is not measured" not in caption(measured)


def test_the_caption_states_split_spread_and_what_intervals_cover(content):
    assert caption(content).startswith("Validation split. Rank is by the selection score on")
    assert "± is the standard deviation over the n runs" in caption(content)
    assert "interval over videos and seeds" in caption(content)
    single = make_study(seeds=(0,), split="test", published=False)
    assert caption(single).startswith("Test split.")
    assert "95 % interval over videos;" in caption(single)
    assert "intervals do not include variation between seeds" in caption(single)
    assert "±" not in caption(single) + "".join(columns_of(single)["t2v.R@1"].cells)


def test_markdown_has_failed_runs_as_rows_and_escapes_their_reasons(content):
    lines = study_markdown_table(content).splitlines()
    assert lines[0].startswith(
        "| Variant | Rank | n | Selection score | t2v R@1 | t2v R@1 published | t2v R@5 |"
    )
    (failed,) = [line for line in lines if line.startswith("| eps + dir, seed 2 |")]
    assert "failed: loss is nan &amp; &lt;b&gt;50 %&lt;/b&gt; in epoch 3_a |" in failed
    assert len([line for line in lines if line.startswith("| dir, seed")]) == 3
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}
    assert len(widths) == 1


def test_latex_has_marks_spread_and_as_many_columns_as_it_declares(content):
    found = content.ranked[0].differences["t2v.R@1"]
    dull = dataclasses.replace(
        content.ranked[0],
        differences={"t2v.R@1": dataclasses.replace(found, p_holm=0.2)},
    )
    rows = [dull if one.name == dull.name else one for one in content.rows]
    table = study_latex_table(dataclasses.replace(content, rows=rows), "tab:one")
    lines = table.splitlines()
    assert lines[0] == r"% needs \usepackage{booktabs}"
    assert r"\label{tab:one}" in lines
    (declared,) = re.findall(r"\\begin\{tabular\}\{(l[r]+)\}", table)
    body = [line for line in lines if line.endswith(r" \\")]
    for line in body:
        spanned = sum(int(number) - 1 for number in re.findall(r"\\multicolumn\{(\d+)\}", line))
        assert len(re.findall(r"(?<!\\)&", line)) + 1 + spanned == len(declared)
    assert r"0.200\textsuperscript{\dag} &" in body[1]
    assert rf"{dull.mean['t2v.R@1']:.1f} $\pm$ {dull.std['t2v.R@1']:.1f}" in body[1]
    assert any(line.startswith("none (reference) & ") for line in body)
    assert r"{failed: loss is nan \& \textless{}b\textgreater{}50 \%" in table
    assert not set(table) & set("±—†")


def test_a_reference_without_runs_leaves_no_differences():
    content = make_study(seeds=(0,), failed=[(0, 0, "x")])
    assert set(columns_of(content)["verdict"].cells) == {"—", "no finished run"}
    assert set(columns_of(content)["points"].cells) == {"—"}


def test_the_terminal_has_the_pages_cells_and_verdicts_and_both_directions(content):
    columns = columns_of(content)
    header, *lines = terminal_table(content)
    assert "Selection score" in header
    assert "Difference in v2t R@1" in header
    assert "Seconds" not in header
    for place, line in enumerate(lines):
        for key in ("variant", "rank", "n", "t2v.R@1", "points", "low", "p", "verdict"):
            assert columns[key].cells[place] in line
