from typing import Any

import pytest

from gare_cache.errors import ConfigError
from gare_cache.search.query import LONGEST_TEXT, QueryPart, make_query


def test_parts_have_weights() -> None:
    query = make_query("a dog^0.5", also=["2^10 frogs"], without=["snow", "rain^2"], like=["v1"])
    assert query.parts == (
        QueryPart("text", "a dog", 0.5),
        QueryPart("text", "2^10 frogs", 1.0),
        QueryPart("video", "v1"),
        QueryPart("text", "snow", -0.5),
        QueryPart("text", "rain", -2.0),
    )


def test_a_caret_without_a_number_behind_it_is_text() -> None:
    assert make_query("what ^ is").parts == (QueryPart("text", "what ^ is"),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "the query is empty"),
        ({"without": ["snow"]}, "the query is empty"),
        ({"sentence": "  "}, "an empty sentence"),
        ({"sentence": "^0.5"}, "an empty sentence"),
        ({"sentence": "a^0"}, "must be a positive number"),
        ({"sentence": "a^-1"}, "must be a positive number"),
        ({"sentence": "a^nan"}, "must be a positive number"),
        ({"sentence": "a" * (LONGEST_TEXT + 1)}, "10,001 characters"),
        ({"sentence": 3}, "give a sentence as a string"),
    ],
)
def test_queries_that_ask_nothing_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_query(**given)
