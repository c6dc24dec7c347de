"""Wording that messages share."""

import re
from pathlib import Path

import pytest

from gare_cache.errors import agreeing, counted, plural

PACKAGE = Path(__file__).parents[1] / "gare_cache"
NOUNS = ("video", "caption", "query", "text", "run", "epoch", "item", "row", "pair", "variant")


@pytest.mark.parametrize(
    ("number", "noun", "verb", "text"),
    [
        (1, "video", "", "1 video"),
        (0, "video", "", "0 videos"),
        (1000, "video", "", "1,000 videos"),
        (2, "query", "", "2 queries"),
        (2, "process", "", "2 processes"),
        (1, "video", "have", "1 video has"),
        (2, "video", "have", "2 videos have"),
        (1, "run", "are", "1 run is"),
        (1, "query", "belong", "1 query belongs"),
    ],
)
def test_counts_agree_with_noun_and_verb(number: int, noun: str, verb: str, text: str) -> None:
    assert counted(number, noun, verb) == text
    assert text.endswith(agreeing(number, verb) or plural(number, noun))


def test_no_message_puts_a_fixed_plural_behind_a_count() -> None:
    """So nothing says "1 videos"; "1 of 400 rows" is right."""
    nouns = "|".join(sorted({plural(2, noun) for noun in NOUNS}))
    behind_a_count = re.compile(rf"(?<!\bof )\{{[^{{}}]*:,\}} (\w+ )?({nouns})\b")
    found = {
        f"{file.relative_to(PACKAGE)}: {match[0]}"
        for file in PACKAGE.rglob("*.py")
        for match in behind_a_count.finditer(file.read_text(encoding="utf-8"))
    }
    assert not found, "word counts with gare_cache.errors.counted"
