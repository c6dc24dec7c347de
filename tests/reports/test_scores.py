import dataclasses

from gare_cache.reports.protocol import protocol_lines
from gare_cache.reports.scores import describe_scores
from gare_cache.reports.tables import COLUMNS
from tests.evaluation.test_results import make_result


def test_the_terminal_has_the_cells_of_the_page_under_both_rules() -> None:
    result = make_result()
    title, protocol, published, first_rule, header, *lines = describe_scores(
        dataclasses.replace(result, normalisers=None)
    )
    assert title == "test: 4 of 5"
    assert [protocol, published] == protocol_lines(result.card)
    assert first_rule == "evaluate.missing: drop (headline)"
    assert header.split()[:2] == ["Direction", "Method"]
    assert all(name in header for name in COLUMNS)
    assert lines[2] == "evaluate.missing: count_as_miss"
    assert lines[0].startswith("Text to video  head ")
    for value in ("20.0", "[15.0, 25.0]", "50.0", "60.0", "8 of 10"):
        assert value in lines[0]
