from pathlib import Path
from typing import Any

import pytest

from gare_cache.errors import ConfigError
from gare_cache.studies.study import (
    Axis,
    AxisValue,
    Published,
    Study,
    parse_study,
    read_study,
    with_settings,
)
from tests.studies.made import content

REPOSITORY = Path(__file__).parents[2]


def test_a_file_becomes_a_study(tmp_path: Path) -> None:
    file = tmp_path / "alpha.yaml"
    file.write_text(
        """
title: a title
question: which alpha?
base: params.yaml
set: {train.epochs: 3}
axes:
  train.loss.dir.alpha: [0.5, 2]
  gap:
    with: {head.gap.heads: 2, head.gap.dropout: 0.0}
    as it is:
seeds: [3, 1]
reference: alpha=2, as it is
evaluate: {captions: first}
published:
  source: a paper
  note: a note
  dataset: {reader: msrvtt, protocol: [1k-a-9k, 1k-a-7k]}
  rows: {"alpha=2, with": {t2v.R@1: 49}}
"""
    )
    assert read_study(file) == Study(
        name="alpha",
        base="params.yaml",
        axes=(
            Axis(
                "train.loss.dir.alpha",
                (
                    AxisValue("0.5", "alpha=0.5", {"train.loss.dir.alpha": 0.5}),
                    AxisValue("2", "alpha=2", {"train.loss.dir.alpha": 2}),
                ),
            ),
            Axis(
                "gap",
                (
                    AxisValue("with", "with", {"head.gap.heads": 2, "head.gap.dropout": 0.0}),
                    AxisValue("as it is", "as it is", {}),
                ),
            ),
        ),
        seeds=(3, 1),
        reference="alpha=2, as it is",
        settings={"train.epochs": 3},
        protocol={"captions": "first"},
        title="a title",
        question="which alpha?",
        published=Published(
            "a paper",
            "a note",
            {"reader": ("msrvtt",), "protocol": ("1k-a-9k", "1k-a-7k")},
            {"alpha=2, with": {"t2v.R@1": 49.0}},
        ),
    )


def test_axes_of_settings_with_one_last_name_are_told_apart() -> None:
    axes = {"head.aggregator.layers": [1], "train.epochs": [2]}
    study = parse_study("s", content(axes={**axes, "extract.views.count": [1]}))
    assert [axis.values[0].label for axis in study.axes] == ["layers=1", "epochs=2", "count=1"]
    shared = {"head.aggregator.name": ["mean"], "head.pooling.name": ["mean"]}
    study = parse_study("s", content(axes=shared))
    labels = [axis.values[0].label for axis in study.axes]
    assert labels == ["aggregator.name=mean", "pooling.name=mean"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": [0]}, "unknown key of a study 'sed'; did you mean 'seeds', 'set'?"),
        ({"axes": {"train.lossdir.alpha": [1]}}, "did you mean 'train.loss.dir.alpha'"),
        ({"axes": {"a": {"x": {"head.gap.head": 2}}}}, "axes.a.x: unknown setting 'head.gap.head'"),
        ({"set": {"train.epoch": 2}}, "set: unknown setting 'train.epoch'; did you mean"),
        ({"evaluate": {"caption": "all"}}, "did you mean 'evaluate.captions'"),
        ({"axes": {"train.epochs": []}}, r"axes.train.epochs is \[\], so there is no variant"),
        ({"axes": {"a": {}}}, "axes.a is {}, so there is no variant"),
        ({"axes": ["train.epochs"]}, "axes is .* it must be a mapping of names to values"),
        ({"seeds": [0, 1, 0]}, "seeds holds 0 twice"),
        ({"seeds": []}, r"seeds is \[\]; give a list of whole numbers"),
        ({"seeds": [True]}, "give a list of whole numbers"),
        ({"seeds": 3}, "give a list of whole numbers"),
        ({"axes": {"train.seed": [0, 1]}}, "train.seed is set by `seeds`"),
        ({"evaluate": {"split": "test"}}, "evaluate.split is val, or test with --final"),
        ({"published": {"rows": {}}}, "published.source is missing"),
        ({"published": {"source": "p", "rows": {}}}, "published.dataset is missing"),
        (
            {"published": {"source": "p", "dataset": {"raeder": "x"}, "rows": {}}},
            "unknown key of published.dataset 'raeder'; did you mean 'reader'",
        ),
        (
            {"published": {"source": "p", "dataset": {}, "rows": {"a": {"t2v.R@2": 1}}}},
            "unknown metric 't2v.R@2'",
        ),
        (
            {"published": {"source": "p", "dataset": {}, "rows": {"a": {"t2v.R@1": "x"}}}},
            "must be a number",
        ),
        ({"title": 3}, "title is 3; it must be a string"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_study("s", content(**changes))


@pytest.mark.parametrize("key", ["base", "axes", "seeds", "reference"])
def test_what_is_missing_is_named(key: str) -> None:
    given = content()
    del given[key]
    with pytest.raises(ConfigError, match=f"^{key} is missing"):
        parse_study("s", given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes: [", "is not valid YAML"),
        ("- a list", "holds no study"),
        ("seeds: [0]\nseeds: [1]", "'seeds' is repeated"),
        ("axes: {a: {x: {}, x: {}}}", "'x' is repeated"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_study(file)
    assert str(file) in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_study(tmp_path / "nowhere.yaml")
    (tmp_path / "a b.yaml").write_text("")
    with pytest.raises(ConfigError, match="named after its file"):
        read_study(tmp_path / "a b.yaml")


def test_the_repositorys_studies_are_studies() -> None:
    files = sorted((REPOSITORY / "studies").glob("*.yaml"))
    assert files
    for file in files:
        read_study(file)


def test_settings_of_the_command_line_come_last() -> None:
    study = parse_study("s", content(set={"train.epochs": 2, "train.threads": 1}))
    changed = with_settings(study, ["train.epochs=5", "head.gap=null"])
    assert changed.settings == {"train.epochs": 5, "train.threads": 1, "head.gap": None}
    assert changed.axes == study.axes


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epochs", r"--set train\.epochs: write SETTING=VALUE"),
        ("train.epoch=5", r"--set: .*'train\.epoch'.*did you mean"),
        ("train.seed=5", r"--set: train\.seed is set by `seeds`"),
        ("head.gap={", "the value is not valid YAML"),
    ],
)
def test_faulty_settings_of_the_command_line(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_settings(parse_study("s", content()), [assignment])
