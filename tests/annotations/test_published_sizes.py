"""The pages of the data sets say what the code says."""

import re
from pathlib import Path

import pytest

from gare_cache.annotations.published_sizes import PUBLISHED_SIZES
from gare_cache.annotations.readers import READERS

PAGES = Path(__file__).parents[2] / "docs/data-sets"


def number(value: int | None) -> str:
    return "—" if value is None else f"{value:,}"


@pytest.mark.parametrize("reader", PUBLISHED_SIZES)
def test_a_page_lists_the_test_sets_in_print_and_the_protocols(reader: str) -> None:
    page = (PAGES / f"{reader}.md").read_text()
    rows = [
        [cell.strip() for cell in row.split("|")[1:4]] for row in re.findall(r"^\|.*", page, re.M)
    ]
    listed = [row for row in rows if row[0] in {test.source for test in PUBLISHED_SIZES[reader]}]
    assert listed == [
        [test.source, number(test.videos), number(test.captions)]
        for test in PUBLISHED_SIZES[reader]
    ]
    for protocol, sizes in READERS[reader].sizes.items():
        (row,) = re.findall(rf"^\| `{re.escape(protocol)}` \|.*", page, re.M)
        for count in sizes["test"]:
            assert count is None or f"{count:,}" in row


def test_every_data_set_with_protocols_has_its_page() -> None:
    readers = {name for name, reader in READERS.items() if reader.protocols} - {"moments"}
    assert readers == set(PUBLISHED_SIZES) == {p.stem for p in PAGES.glob("*.md")} - {"index"}
