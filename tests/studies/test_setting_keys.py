import pytest

from gare_cache.errors import ConfigError
from gare_cache.settings import Settings
from gare_cache.studies.setting_keys import (
    _names,
    check_setting,
    flat,
    overlap,
    setting_names,
    setting_text,
    short_names,
    with_changes,
)


class _Inner(Settings):
    options: dict[str, int] | None = None


class _Outer(Settings):
    inner: _Inner | None = None
    listed: tuple[_Inner, ...] = ()


def test_names_of_sections_and_settings() -> None:
    assert list(_names(_Outer)) == [
        ("inner", False),
        ("inner.options", True),
        ("listed", False),
    ]
    names = setting_names()
    assert {"head.gap", "head.gap.heads", "train.loss.ib.weight", "encoder.model"} <= {*names}
    assert len(names) == len(set(names))


def test_unknown_settings_are_refused_with_the_nearest() -> None:
    check_setting("head.gap")
    with pytest.raises(ConfigError, match=r"unknown setting 'head.gap.headz'; did you mean"):
        check_setting("head.gap.headz")
    with pytest.raises(ConfigError, match=r"unknown setting 'train.epochs.more'"):
        check_setting("train.epochs.more")


def test_changes() -> None:
    values = {"head": {"gap": None, "projection": "none"}, "train": {"epochs": 2}}
    changes = {"head.gap.heads": 2, "train": {"epochs": 3}, "report.examples": 1}
    assert with_changes(values, changes) == {
        "head": {"gap": {"heads": 2}, "projection": "none"},
        "train": {"epochs": 3},
        "report": {"examples": 1},
    }
    assert values["head"] == {"gap": None, "projection": "none"}
    with pytest.raises(ConfigError, match="projection is 'none', not a section"):
        with_changes(values, {"head.projection.name": 1})


def test_overlap_is_by_whole_names() -> None:
    assert overlap("head.gap", "head.gap.heads")
    assert overlap("head.gap.heads", "head.gap")
    assert overlap("head.gap", "head.gap")
    assert not overlap("head.gap", "head.gapped")


def test_flat_and_texts() -> None:
    nested = {"a": {"b": [1, 2], "c": None}, "d": {}, "e": "x"}
    assert flat(nested) == {"a.b": "[1, 2]", "a.c": None, "d": "{}", "e": "x"}
    assert [setting_text(v) for v in ("x", None, 0.5, {"b": 1, "a": True})] == [
        "x",
        "null",
        "0.5",
        '{"a": true, "b": 1}',
    ]


def test_short_names() -> None:
    assert short_names(["a.b.c", "d.b.c", "e.f"]) == {
        "a.b.c": "a.b.c",
        "d.b.c": "d.b.c",
        "e.f": "f",
    }
    assert short_names(["x.a.n", "x.b.n"]) == {"x.a.n": "a.n", "x.b.n": "b.n"}
    assert short_names(["n", "x.n"]) == {"n": "n", "x.n": "x.n"}
