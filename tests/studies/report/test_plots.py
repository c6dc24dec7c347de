import dataclasses
import re
from xml.etree import ElementTree

import pytest

from gare_cache.studies.report import plots as study_plots
from gare_cache.studies.report.axes import axis_groups
from gare_cache.studies.result import StudyResult
from gare_cache.studies.study import Axis, AxisValue
from tests.studies.report.sample import make_study, told


@pytest.fixture(scope="module")
def content() -> StudyResult:
    return make_study(failed=[(4, 2, "x")])


@pytest.fixture(scope="module")
def grid() -> StudyResult:
    return make_study(num_axes=2, seeds=(0, 1))


def draw_intervals(content, axis="increment loss", metric="t2v.R@1"):
    return study_plots.interval_plot(content, axis, axis_groups(content, axis), metric)


DRAWINGS = {
    "intervals": draw_intervals,
    "curves": lambda content: study_plots.learning_curves(
        content, content.rows[1:], "total loss", lambda run: run.curve("loss.total"), 1
    ),
    "cost": lambda content: study_plots.cost_plot(
        content, "parameters", lambda variant: variant.parameters, "study parameters"
    ),
}


def texts_of(svg: str) -> list[str]:
    return [text for text in ElementTree.fromstring(svg).itertext() if text.strip()]


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_plot_is_deterministic_well_formed_and_themed(name, content):
    svg = DRAWINGS[name](content)
    assert DRAWINGS[name](content) == svg
    assert not re.search(r"(fill|stroke): #(1f2428|0072b2|d55e00|009e73|b5408f|9a7500|7a5cd0)", svg)
    assert re.findall(r"https?://[^\"]+", svg) == [
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    ]


def test_intervals_show_every_value_and_read_out_every_number(content):
    svg = draw_intervals(content)
    values = ["none (reference)", *content.axes["increment loss"][1:]]
    assert [text for text in texts_of(svg) if text in values] == values
    label = ElementTree.fromstring(svg).get("aria-label")
    for variant in content.compared:
        found = variant.differences["t2v.R@1"]
        assert f"{variant.name} {found.points:+.1f} [{found.low:+.1f}, {found.high:+.1f}]" in label


def test_an_open_dot_is_one_that_cannot_be_told_apart(content):
    def with_all(distinguishable):
        rows = [
            dataclasses.replace(
                one,
                differences={
                    name: told(found, distinguishable) for name, found in one.differences.items()
                },
            )
            for one in content.rows
        ]
        return draw_intervals(dataclasses.replace(content, rows=rows))

    assert with_all(True).count("var(--paper") == 0
    assert with_all(False).count("var(--paper") >= 6


def test_a_grid_has_its_groups_titles_and_a_failed_variant_its_words(grid):
    texts = texts_of(draw_intervals(grid, "heads"))
    assert [text for text in texts if text.startswith("frames ")] == [
        f"frames {value}" for value in ("6", "2", "4", "8", "12", "16")
    ]
    failed = [
        dataclasses.replace(one, runs=(), mean={}, std={}, differences={}, rank=None)
        if one.name == "heads 8, frames 6"
        else one
        for one in grid.rows
    ]
    assert "no finished run" in texts_of(
        draw_intervals(dataclasses.replace(grid, rows=failed), "heads")
    )


def test_panels_have_at_most_six_variants_each_and_every_one_once(grid, content):
    panels = study_plots.curve_panels(grid)
    assert [len(panel) for panel in panels] == [6, 6, 6, 6, 5]
    names = [variant.name for panel in panels for variant in panel]
    assert names == [one.name for one in grid.rows if one.name != grid.reference]
    assert [len(panel) for panel in study_plots.curve_panels(content)] == [6]


def test_curves_name_every_line_and_seeds_of_unequal_length_are_averaged(content):
    svg = DRAWINGS["curves"](content)
    names = [variant.name for variant in content.rows[1:]]
    assert [text for text in texts_of(svg) if text in names] == names
    assert "none (reference)" in texts_of(svg)
    run = content.rows[1].runs[0]
    short = dataclasses.replace(run, history=run.history[:1])
    cut = dataclasses.replace(content.rows[1], runs=[short, *content.rows[1].runs[1:]])
    assert study_plots.learning_curves(
        content, [cut], "total loss", lambda run: run.curve("loss.total"), 1
    ) != study_plots.learning_curves(
        content, [content.rows[1]], "total loss", lambda run: run.curve("loss.total"), 1
    )


def test_costs_carry_ranks_and_far_apart_ones_a_logarithmic_axis(content):
    texts = texts_of(DRAWINGS["cost"](content))
    assert {str(variant.rank) for variant in content.rows} <= set(texts)
    spread = study_plots.cost_plot(
        content, "seconds", lambda variant: 10.0 ** (variant.rank or 1), "study seconds"
    )
    assert {"1 k", "100 k", "10 M"} <= set(texts_of(spread))


def test_a_name_without_end_is_cut_and_dollar_signs_are_no_formula(content):
    rows = [
        dataclasses.replace(one, name="x" * 200 if place else one.name)
        for place, one in enumerate(content.rows)
    ]
    svg = study_plots.learning_curves(
        dataclasses.replace(content, rows=rows),
        rows[1:2],
        "loss",
        lambda run: run.curve("loss.total"),
        1,
    )
    assert "x" * 61 not in "".join(texts_of(svg))
    values = {**content.rows[1].axis_values, "increment loss": "$x_1$"}
    axis = Axis("increment loss", tuple(AxisValue(value, value, {}) for value in ("none", "$x_1$")))
    named = dataclasses.replace(
        content,
        study=dataclasses.replace(content.study, axes=(axis,)),
        rows=[
            content.rows[0],
            dataclasses.replace(content.rows[1], axis_values=values),
        ],
    )
    assert "$x_1$" in texts_of(draw_intervals(named))
