import dataclasses

from gare_cache.reports.protocol import protocol_lines, protocol_markdown, protocol_section
from tests.reports.sample import CARD

CONVENTIONS = {
    "captions": "all",
    "v2t_convention": "best_caption_group",
    "missing": "count_as_miss",
}


def test_the_section_names_data_conventions_counts_and_published_tests() -> None:
    section = protocol_section(CARD, **CONVENTIONS)
    facts = dict(section.facts)
    assert facts["Data set"] == "clips (reader didemo, protocol paragraph)"
    assert facts["Video to text"].endswith("among the other videos' caption groups")
    assert facts["Without features"] == "queries without features counted as misses"
    assert facts["Text context"] == "64 tokens with start and end; longer captions are cut"
    assert section.splits[1][1] == (
        *("test", "1,004", "1,004", "1,004", "1,004"),
        *("1,004", "1,004", "1,004", "12"),
    )
    assert section.published[1][1] == (
        *("VindLU", "no", "1,003 videos, here 1,004", "1,003", "1,003"),
    )
    assert section.conclusion.startswith("The test set is that of Collaborative Experts;")


def test_what_is_not_known_is_said() -> None:
    counts = {n: dataclasses.replace(of, cut_captions=None) for n, of in CARD.splits.items()}
    card = dataclasses.replace(CARD, splits=counts, published=[], context_length=None)
    section = protocol_section(card, **CONVENTIONS)
    assert section.splits[1][0][-1] == "—"
    assert dict(section.facts)["Text context"] == "not recorded with the features"
    assert section.conclusion == "No published test set is known for this data."
    assert len(protocol_lines(card)) == 1


def test_markdown_has_every_cell() -> None:
    section = protocol_section(CARD, **CONVENTIONS)
    text = protocol_markdown(section)
    for cell in (*section.splits[1][0], *section.published[1][0], section.conclusion):
        assert cell in text


def test_the_lines_say_how_far_the_scored_split_is_the_official_one() -> None:
    short = dataclasses.replace(CARD.splits["test"], listed_videos=990, encoded_videos=980)
    card = dataclasses.replace(CARD, splits={"test": short})
    assert protocol_lines(card)[0] == (
        "protocol: clips (reader didemo, protocol paragraph); 980 of 990 test videos "
        "(1,004 official) with features, 12 captions cut"
    )
