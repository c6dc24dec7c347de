from typing import Any

import pytest
import yaml

from gare_cache.errors import ConfigError
from gare_cache.studies.expansion import expand
from gare_cache.studies.study import parse_study, with_settings
from tests.studies.made import BASE, content


def expanded(**changes: Any) -> Any:
    return expand(parse_study("s", content(**changes)), BASE)


def test_the_product_in_order() -> None:
    variants = expanded(
        set={"train.epochs": 7},
        axes={
            "train.loss.dir.alpha": [1.0, 2.0],
            "gap": {"one": {"head.gap.heads": 1}, "two": {"head.gap.heads": 2}},
        },
        reference="alpha=1.0, two",
        evaluate={"captions": "first"},
    )
    assert [variant.name for variant in variants] == [
        "alpha=1.0, one",
        "alpha=1.0, two",
        "alpha=2.0, one",
        "alpha=2.0, two",
    ]
    last = variants[-1]
    assert last.axis_values == {"train.loss.dir.alpha": "2.0", "gap": "two"}
    assert last.changes == {"train.loss.dir.alpha": 2.0, "head.gap.heads": 2}
    params = last.with_seed(5)
    assert params.head.gap is not None
    assert (params.head.gap.heads, params.train.loss.dir.alpha) == (2, 2.0)
    assert (params.train.seed, params.train.epochs) == (5, 7)
    assert (params.evaluate.captions, params.evaluate.split) == ("first", "val")


def test_the_cache_may_be_an_axis() -> None:
    axes = {"encoder": {"small": {"encoder.model": "a"}, "large": {"encoder.model": "b"}}}
    variants = expanded(axes=axes, reference="small")
    assert [variant.params.encoder.model for variant in variants] == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": {}}, "axes is empty, so there is no variant"),
        (
            {"reference": "alpha=2"},
            r"reference: unknown variant 'alpha=2'; did you mean 'alpha=2.0'",
        ),
        (
            {"axes": {"train.epochs": [5, 6, 5]}, "reference": "epochs=5"},
            "variants 'epochs=5' and 'epochs=5' have the same settings",
        ),
        (
            {"axes": {"a": {"x": {"report.examples": 1}, "y": {}}}, "reference": "x"},
            "variants 'x' and 'y' have the same settings for training and evaluation",
        ),
        (
            {"axes": {"a": {"x": {}, "y": {"train.epochs": 5}}}, "reference": "x"},
            "variants 'x' and 'y' have the same settings",
        ),
        (
            {"axes": {"head.gap.heads": [1], "g": {"x": {"head.gap": None}}}},
            "axes 'head.gap.heads' and 'g' both change head.gap.heads",
        ),
        (
            {"axes": {"evaluate.captions": ["all", "first"]}, "reference": "captions=all"},
            "evaluate.captions is 'first' for 'captions=first' and 'all' for 'captions=all'",
        ),
        (
            {"axes": {"train.epochs": [1, 0]}, "reference": "epochs=1"},
            "variant 'epochs=0': train.epochs is 0",
        ),
        (
            {"axes": {"head.gap": [None, {}]}, "reference": "gap=null"},
            "variant 'gap=null': head.gap is null, so there is no increment",
        ),
        (
            {"published": {"source": "p", "dataset": {}, "rows": {"alpha=9": {}}}},
            "published.rows: unknown variant 'alpha=9'",
        ),
        (
            {"axes": {"a": {"1": {"train.epochs": 1}}, "train.epochs": [2]}, "reference": "1"},
            "both change train.epochs",
        ),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expanded(**changes)


def test_numbers_with_an_exponent_are_numbers_in_axes_and_set() -> None:
    study = parse_study(
        "s",
        content(
            axes={"train.learning_rate": yaml.safe_load("[1e-05, 1e-4]")},
            reference="learning_rate=1e-05",
        ),
    )
    study = with_settings(study, ["train.weight_decay=1e-3"])
    variants = expand(study, BASE)
    assert [v.params.train.learning_rate for v in variants] == [0.00001, 0.0001]
    assert {v.params.train.weight_decay for v in variants} == {0.001}
