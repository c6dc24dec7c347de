import pytest

from gare_cache.studies.report.axes import axis_groups, ungrouped
from gare_cache.studies.result import StudyResult
from gare_cache.studies.study import Axis, AxisValue, Study
from gare_cache.studies.table import StudyRow


def make_study(axes, **variants) -> StudyResult:
    """Make a study without results; the first variant is the reference."""
    study = Study(
        name="t",
        base="params.yaml",
        axes=tuple(
            Axis(name, tuple(AxisValue(value, value, {}) for value in values))
            for name, values in axes.items()
        ),
        seeds=(0,),
        reference=next(iter(variants)),
    )
    rows = [StudyRow(name, values, {}) for name, values in variants.items()]
    return StudyResult(study, "val", rows)


def shown(content, axis):
    groups = axis_groups(content, axis)
    return [(g.title, list(g.values), [v.name for v in g.variants]) for g in groups]


def test_a_grid_has_a_group_for_every_setting_of_the_other_axis_the_references_first():
    content = make_study(
        {"heads": ["1", "2"], "layers": ["1", "2", "3"]},
        b2={"heads": "2", "layers": "2"},
        a1={"heads": "1", "layers": "1"},
        b1={"heads": "2", "layers": "1"},
        a2={"heads": "1", "layers": "2"},
        a3={"heads": "1", "layers": "3"},
    )
    assert shown(content, "heads") == [
        ("layers 2", ["1", "2"], ["a2", "b2"]),
        ("layers 1", ["1", "2"], ["a1", "b1"]),
    ]
    assert shown(content, "layers") == [
        ("heads 2", ["1", "2"], ["b1", "b2"]),
        ("heads 1", ["1", "2", "3"], ["a1", "a2", "a3"]),
    ]
    assert ungrouped(content) == []


@pytest.mark.parametrize("layers", [{}, {"layers": "1"}])
def test_one_change_at_a_time_gives_one_group_an_axis_named_values_or_not(layers):
    content = make_study(
        {"heads": ["1", "2"], "layers": ["1", "2"]},
        base={"heads": "1", "layers": "1"},
        wide={"heads": "2", **layers},
        deep={"heads": "1", "layers": "2"},
    )
    assert shown(content, "heads") == [("layers 1", ["1", "2"], ["base", "wide"])]
    assert shown(content, "layers") == [("heads 1", ["1", "2"], ["base", "deep"])]


def test_variants_that_differ_in_more_than_an_axis_stand_alone():
    content = make_study(
        {"heads": ["1", "2"], "layers": ["1", "2"]},
        base={"heads": "1", "layers": "1"},
        both={"heads": "2", "layers": "2"},
        other={},
    )
    assert shown(content, "heads") == []
    assert [variant.name for variant in ungrouped(content)] == ["both", "other"]
