from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gare_cache.errors import ConfigError
from gare_cache.evaluation.normalisers.custom import find_custom_normaliser

MODULE = "tests.own_modules"


def scores() -> Any:
    generator = np.random.default_rng(0)
    return SimpleNamespace(
        logits=generator.standard_normal((3, 4)), queries=generator.standard_normal((5, 4))
    )


def test_what_it_says_of_itself() -> None:
    found = find_custom_normaliser(f"{MODULE}:hubs")
    assert (found.kinds, found.banks) == (("inductive",), ("queries",))
    assert found.parameters == {"weight": 0.5}
    given = scores()
    expected = given.logits - 0.25 * given.queries.mean(axis=0)
    np.testing.assert_array_equal(found(given, weight=0.25), expected)
    assert find_custom_normaliser(f"{MODULE}:everything_at_once").kinds == ("transductive",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("in_place", r"changes scores.logits in place; return a new array"),
        ("ranks", r"returned array of int64; it must return a numpy array of floats"),
        ("too_small", r"returned shape \(2, 4\); the scores are \(Q, G\) = \(3, 4\)"),
        ("misspelt", r"misspelt' fails at .*own_modules.py:\d+ with AttributeError: .*'logitz'"),
        ("logarithm", r"returned NaN or infinity in 3 of 3 rows"),
    ],
)
def test_what_it_returns_is_checked(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_custom_normaliser(f"{MODULE}:{name}")(scores())


def test_faulty_ones() -> None:
    with pytest.raises(ConfigError, match=r"raising_normaliser' fails at .*:\d+ with ValueError"):
        find_custom_normaliser(f"{MODULE}:raising_normaliser")(scores(), what="queries")
    with pytest.raises(ConfigError, match=r"kinds of normaliser .* are \('both',\); set a tuple"):
        find_custom_normaliser(f"{MODULE}:of_another_kind")
    with pytest.raises(ConfigError, match="unexpected keyword argument 'alpha'"):
        find_custom_normaliser(f"{MODULE}:hubs")(scores(), alpha=1)
    with pytest.raises(ConfigError, match="missing a required argument"):
        find_custom_normaliser(f"{MODULE}:diagonal_loss")
