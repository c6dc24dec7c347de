import dataclasses
import math
from statistics import fmean, median

import pytest

from gare_cache.studies.report.findings import (
    findings,
    outcomes_grid,
    runs_grid,
    study_notes,
    variants_grid,
)
from gare_cache.studies.result import StudyResult
from tests.studies.report.sample import make_queries, make_study, referring_to


@pytest.fixture(scope="module")
def content() -> StudyResult:
    return make_study(failed=[(4, 2, "disk full")])


@pytest.fixture(scope="module")
def grid() -> StudyResult:
    return make_study(num_axes=2, seeds=(0, 1), split="test")


def test_findings_name_the_best_what_can_be_told_apart_and_what_failed(content):
    sentences = findings(content)
    best = content.ranked[0]
    found = best.differences["t2v.R@1"]
    assert sentences[0] == (
        "7 variants, 3 seeds each: 20 finished runs, shown on the validation split."
    )
    assert sentences[1].startswith(
        f'"{best.name}" ranks first by the selection score: text-to-video R@1 '
        f"{best.mean['t2v.R@1']:.1f} ± {best.std['t2v.R@1']:.1f} (n = 3), "
        f'{found.points:+.1f} points against "none", 95 % '
        f"interval {found.low:+.1f} to {found.high:+.1f}, p Holm"
    )
    told = [v.name for v in content.compared if v.differences["t2v.R@1"].distinguishable]
    assert 0 < len(told) < 6
    names = " and ".join(f'"{name}"' for name in told)
    assert (
        f'{len(told)} of 6 variants can be distinguished from the reference "none" in '
        f"text-to-video R@1; better: {names}."
    ) in sentences
    assert '1 run failed and is not included in any mean: 1 of "eps + dir".' in sentences
    assert any(sentence.startswith('A run took 21.8 s ("none") to ') for sentence in sentences)


def test_the_smallest_difference_that_could_be_shown_is_half_an_interval(content):
    (sentence,) = [one for one in findings(content) if one.startswith("The smallest")]
    found = [variant.differences["t2v.R@1"] for variant in content.compared]
    widths = [(one.high - one.low) / 2 for one in found]
    true = [one.detectable for one in found]
    assert "this validation split could show" in sentence
    for values in (widths, true):
        assert f"{median(values):.1f} points ({min(values):.1f} to {max(values):.1f}" in sentence


def test_an_axis_of_a_grid_is_averaged_over_the_other(grid):
    (sentence,) = [one for one in findings(grid) if one.startswith("heads:")]
    means = {
        value: fmean(v.mean["t2v.R@1"] for v in grid.rows if v.axis_values["heads"] == value)
        for value in grid.axes["heads"]
    }
    high, low = max(means, key=means.get), min(means, key=means.get)
    assert sentence == (
        f'heads: highest text-to-video R@1 at "{high}" ({means[high]:.1f}), lowest at "{low}" '
        f"({means[low]:.1f}), mean over 6 settings of the other axes."
    )


def test_where_a_cell_of_the_grid_is_missing_the_references_settings_are_compared(grid):
    gone = dataclasses.replace(grid, rows=[grid.reference_row, *grid.rows[3:6]])
    assert not any(one.startswith("heads:") for one in findings(gone))
    holed = dataclasses.replace(
        grid, rows=[one for one in grid.rows if one.name != "heads 1, frames 2"]
    )
    (sentence,) = [one for one in findings(holed) if one.startswith("heads:")]
    assert "mean over" not in sentence


def test_an_axis_without_effect_and_runs_without_noise_are_said_plainly(content):
    def level(variant):
        differences = {
            name: dataclasses.replace(found, low=math.nan, high=math.nan)
            for name, found in variant.differences.items()
        }
        return dataclasses.replace(variant, mean={"t2v.R@1": 40.0}, differences=differences)

    sentences = findings(dataclasses.replace(content, rows=[level(one) for one in content.rows]))
    assert "increment loss: the same text-to-video R@1 at every value (40.0)." in sentences
    assert not any("smallest difference" in one for one in sentences)


def test_many_names_are_cut(grid):
    rows = [
        dataclasses.replace(
            one,
            differences={
                "t2v.R@1": dataclasses.replace(one.differences["t2v.R@1"], points=1.0, p_holm=0.001)
            },
        )
        if one.differences
        else one
        for one in grid.rows
    ]
    (sentence,) = [
        one for one in findings(dataclasses.replace(grid, rows=rows)) if "distinguished" in one
    ]
    assert sentence.startswith("29 of 29 variants")
    assert sentence.endswith(" and 21 more.")


def test_the_best_may_be_the_reference_or_have_none_to_compare_with(content, tmp_path):
    own = referring_to(content, content.ranked[0].name)
    assert findings(own)[1].endswith("(n = 3); it is the reference.")
    failed = make_study(seeds=(0,), failed=[(0, 0, "x")])
    assert findings(failed)[1].endswith('It cannot be compared with the reference "none".')


def test_the_highest_mean_is_named_where_validation_chose_another_row(content):
    assert not any("The highest mean" in one for one in findings(content))
    first, second = content.ranked[:2]
    swapped = [
        dataclasses.replace(one, rank={first.name: 2, second.name: 1}.get(one.name, one.rank))
        for one in content.rows
    ]
    sentences = findings(dataclasses.replace(content, rows=swapped))
    assert sentences[1].startswith(f'"{second.name}" ranks first by the selection score')
    assert sentences[2] == (
        "The highest mean text-to-video R@1 on the validation split is that of "
        f'"{first.name}": {first.mean["t2v.R@1"]:.1f} ± {first.std["t2v.R@1"]:.1f} (n = 3).'
    )


def test_nothing_finished_is_said_and_nothing_else(tmp_path):
    failed = [(number, 0, "disk full") for number in range(7)]
    content = make_study(seeds=(0,), failed=failed)
    assert findings(content)[0].startswith("7 variants, 1 seed each: 0 finished runs")
    assert findings(content)[1].startswith("7 runs failed and are not included in any mean: 1 of ")
    assert outcomes_grid(content, make_queries(content))[1] == []


def test_grids_hold_every_run_every_setting_and_every_outcome(content):
    header, runs = runs_grid(content)
    assert header == ("Variant", "Seed", "t2v R@1", "v2t R@1", "Best epoch", "Seconds", "Status")
    assert len(runs) == 21
    assert runs[14] == ("eps + dir", "2", "—", "—", "—", "—", "failed: disk full")
    first = content.rows[0].runs[0]
    assert runs[0] == (
        "none",
        "0",
        f"{first.splits['val'].metrics['t2v.R@1']:.1f}",
        f"{first.splits['val'].metrics['v2t.R@1']:.1f}",
        str(first.best_epoch),
        f"{first.seconds:.1f}",
        "done",
    )
    header, rows = variants_grid(content)
    assert header == ("Variant", "increment loss", "Changed settings")
    assert rows[:2] == [
        ("none", "none", "nothing"),
        ("ib", "ib", "train.loss.increment loss.weight = 0"),
    ]
    header, outcomes = outcomes_grid(content, make_queries(content))
    assert len(outcomes) == 12
    for cells in outcomes:
        assert sum(int(cell) for cell in cells[2:]) == 120


def test_settings_are_printed_as_they_are_written(content):
    changes = {"head.aggregator": {"name": "lstm", "layers": 2}, "head.gap": None, "a.b": "text"}
    one = dataclasses.replace(content.rows[1], changes=changes)
    (row,) = variants_grid(dataclasses.replace(content, rows=[one]))[1]
    assert row[-1] == (
        'head.aggregator = {"name": "lstm", "layers": 2}; head.gap = null; a.b = text'
    )


def test_validation_figures_carry_their_caveat_and_test_figures_do_not(content, grid):
    assert study_notes(content)[0].startswith("These are validation scores.")
    assert study_notes(grid) == [
        "Features are frozen: numbers of finetuned encoders are not comparable.",
        "Test scored 35 times by this study's runs.",
    ]


def test_rows_that_tie_are_all_named(content):
    rows = [
        dataclasses.replace(one, rank=1, validation_score=70.0, mean={"t2v.R@1": 40.0})
        for one in content.rows[:3]
    ]
    sentences = findings(dataclasses.replace(content, rows=rows))
    names = [f'"{one.name}"' for one in rows]
    assert sentences[1] == (
        f"{names[0]}, {names[1]} and {names[2]} share the first rank by the selection score "
        "(70.0): it does not tell them apart."
    )
    assert f"is that of {names[0]}, {names[1]} and {names[2]}: 40.0" in sentences[2]
