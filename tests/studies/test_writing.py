import dataclasses

from gare_cache.studies.writing import other_test_set
from tests.reports.sample import CARD


def test_published_numbers_of_another_test_set_are_said() -> None:
    assert other_test_set("a paper", [CARD]) == []
    published = [dataclasses.replace(test, differs=["980 of 1,004"]) for test in CARD.published]
    short = dataclasses.replace(CARD, published=published)
    note = "the published numbers (a paper) are of another test set"
    assert other_test_set("a paper", [CARD, short]) == [note]


def test_own_data_has_no_published_test_set_to_differ_from() -> None:
    assert other_test_set("a paper", [dataclasses.replace(CARD, published=[])]) == []
