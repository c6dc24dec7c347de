from typing import Any

import pytest

from gare_cache.annotations.fields import check_clip, check_interval, field_of
from gare_cache.errors import AnnotationError


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, r"f:1 is 5; it must be a JSON object"),
        ({}, r"f:1 has no key 'id' \(found: none\); fetch the official file again"),
        ({"ID": 5}, r"f:1 has no key 'id' \(found: ID\)"),
        ({"id": True}, r"f:1: 'id' is True; it must be a whole number"),
        ({"id": "5"}, r"f:1: 'id' is '5'; it must be a whole number"),
    ],
)
def test_what_is_no_field(value: Any, message: str) -> None:
    assert field_of("f:1", {"id": 5}, "id", int, "a whole number") == 5
    with pytest.raises(AnnotationError, match=message):
        field_of("f:1", value, "id", int, "a whole number")


@pytest.mark.parametrize(
    "pair",
    [
        [1],
        [1, 2, 3],
        ["1", 2],
        [-1.0, 2],
        None,
        [True, 2],
        [[1], 2],
        [5, float("nan")],
        [0, 10**400],
    ],
)
def test_what_is_no_interval(pair: object) -> None:
    with pytest.raises(AnnotationError, match=r"f:1: interval .*two times in s, >= 0"):
        check_interval("f:1", pair)


def test_an_interval_may_be_reversed_but_a_clip_may_not() -> None:
    assert check_interval("f:1", [61.29, 60.71]) == (61.29, 60.71)
    for pair in ([61.29, 60.71], [5, 5]):
        with pytest.raises(AnnotationError, match=r"f:1: no time lies between start"):
            check_clip("f:1", pair)
