import dataclasses
import math

import pytest

from gare_cache.reports.pages.grids import escape_latex, escape_markdown, format_number, format_rank
from gare_cache.reports.tables import COLUMNS, latex_table, markdown_table, table_cells
from tests.reports.sample import HEAD, ZERO_SHOT


def test_cells_print_every_number_of_a_row_in_both_directions():
    assert table_cells(HEAD, "t2v") == (
        "transformer + gap (GARE)",
        "400",
        "400 of 412",
        "100",
        "61.5",
        "[54.0, 68.8]",
        "88.2",
        "94.5",
        "99.8",
        "1.0",
        "3.0",
        "0",
        "494.2",
    )
    assert table_cells(ZERO_SHOT, "v2t")[1:6] == (
        "100",
        "100 of 103",
        "400",
        "25.0",
        "[17.0, 34.0]",
    )
    assert table_cells(ZERO_SHOT, "t2v")[-2:] == ("12", "276.5")
    assert len(COLUMNS) == len(table_cells(HEAD, "v2t"))


def test_numbers_have_a_thousands_separator_and_no_nan():
    scores = dataclasses.replace(HEAD.scores["t2v"], queries=27763)
    large = dataclasses.replace(HEAD, scores={**HEAD.scores, "t2v": scores})
    assert table_cells(large, "t2v")[1] == "27,763"
    assert format_number(math.nan) == "—"
    assert [format_rank(rank) for rank in (1.0, 2.5, 1234)] == ["1", "2.5", "1,234"]


def test_markdown_table_groups_directions_and_says_what_rsum_is():
    lines = markdown_table([ZERO_SHOT, HEAD]).splitlines()
    assert lines[0].startswith(
        "| Direction | Method | n | Coverage | Gallery | R@1 | 95 % interval | R@5 |"
    )
    assert lines[2] == (
        "| Text to video | zero-shot mean pooling | 400 | 400 of 412 | 100 | 22.2 "
        r"| \[16.8, 28.2\] | 48.5 | 63.8 | 93.0 | 6.0 | 14.3 | 12 | 276.5 |"
    )
    assert [line.split(" | ")[0] for line in lines[2:6]] == [
        "| Text to video",
        "| Text to video",
        "| Video to text",
        "| Video to text",
    ]
    assert "RSum = R@1 + R@5 + R@10 of both directions" in lines[-1]


def test_latex_table_is_booktabs_with_escaped_cells():
    table = latex_table([dataclasses.replace(HEAD, name="50% & more_")], label="tab:demo")
    assert r"50\% \& more\_ & 400 & 400 of 412 & 100 & 61.5 & {[}54.0, 68.8] & 88.2" in table
    assert table.count(r"494.2 \\") == 2
    for part in (r"\toprule", r"\bottomrule", r"\label{tab:demo}", r"95 \% interval"):
        assert part in table
    assert table.count(r"\midrule") == 2
    assert table.count("{") == table.count("}") + table.count(r"\{") - table.count(r"\}")


def test_every_latex_row_has_one_cell_for_each_column():
    rows = [line for line in latex_table([ZERO_SHOT, HEAD]).splitlines() if " & " in line]
    assert len(rows) == 5
    assert {line.count(" & ") for line in rows} == {len(COLUMNS) - 1}


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("<script>&", "&lt;script&gt;&amp;"),
        ("*bold* `code` [link](x)", r"\*bold\* \`code\` \[link\](x)"),
        ("best_caption_group", "best_caption_group"),
        ("_it_ \\ ~x~", r"\_it\_ \\ \~x\~"),
        ("two\nlines\t$x$", r"two lines \$x\$"),
    ],
)
def test_markdown_escapes(text, escaped):
    assert escape_markdown(text) == escaped


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("&%$#_{}", r"\&\%\$\#\_\{\}"),
        ("a\\b~c^d", r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"),
        ("<a|b>", r"\textless{}a\textbar{}b\textgreater{}"),
        ("[0] *x\ny", "{[}0] {*}x y"),
    ],
)
def test_latex_escapes(text, escaped):
    assert escape_latex(text) == escaped
