"""Word tokens: ragged, one array a unit, whole whatever happens between two files."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from gare_cache.cache import schema, writer
from gare_cache.cache.journal import RowOutcome
from gare_cache.cache.reader import open_cache
from gare_cache.cache.schema import LENGTHS, WORDS, Layout
from gare_cache.cache.verify import verify_cache
from gare_cache.cache.words import words_path
from gare_cache.cache.writer import CacheWriter
from gare_cache.errors import CacheError
from tests.cache import made
from tests.cache.made import caption

LAYOUT = Layout(max_frames=2, dim=3, words=True)


@pytest.fixture(autouse=True)
def _units_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_MOST_ROWS_OF_WORDS", 8)


def tokens(number: int) -> np.ndarray[Any, np.dtype[np.float16]]:
    """2 to 5 tokens, told apart by caption and place."""
    length = 2 + number % 4
    return (100 * number + 1 + np.arange(3 * length)).reshape(length, 3).astype("<f2")


def fill(cache: CacheWriter, numbers: Sequence[int]) -> None:
    rows = cache.allocate("text", [caption(number) for number in numbers])
    number_of = dict(zip(rows, numbers, strict=True))
    for unit in cache.pending("text", rows):
        words = [tokens(number_of[row]) for row in unit.rows]
        values = {
            "text/features": np.stack([w[-1] for w in words]),
            LENGTHS: np.array([len(w) for w in words]),
            WORDS: np.concatenate(words),
        }
        outcomes = [RowOutcome(row) for row in unit.rows]
        cache.commit(unit, values, outcomes, thumbnails={}, seconds={})


def assert_holds(folder: Path, numbers: Sequence[int]) -> None:
    cache = open_cache(folder)
    found = cache.words([f"v{number}#0" for number in numbers])
    for number, words in zip(numbers, found, strict=True):
        np.testing.assert_array_equal(words, tokens(number))


def test_every_caption_has_its_own_tokens(tmp_path: Path) -> None:
    with made.writer(tmp_path / "c", layout=LAYOUT) as cache:
        fill(cache, range(20))
    assert_holds(tmp_path / "c", [19, 0, 7, 8, 3])
    assert verify_cache(tmp_path / "c").faults == []
    group = zarr.open_group(tmp_path / "c" / "features.zarr", mode="r")
    array: Any = group[f"{WORDS}/0"]
    np.testing.assert_array_equal(array[:], np.concatenate([tokens(i) for i in range(8)]))


def test_a_unit_that_grows_keeps_the_tokens_of_its_other_rows(tmp_path: Path) -> None:
    with made.writer(tmp_path / "grown", layout=LAYOUT) as cache:
        cache.allocate("text", [caption(number) for number in range(6)])
        for part in ((4, 5), (0,), (1, 2, 3), (6, 7)):
            fill(cache, part)
            assert_holds(tmp_path / "grown", part)
    with made.writer(tmp_path / "at once", layout=LAYOUT) as cache:
        fill(cache, range(8))
    one, other = (words_path(tmp_path / name, 0) for name in ("grown", "at once"))
    assert one.read_bytes() == other.read_bytes()
    metadata = [path.parents[2] / "zarr.json" for path in (one, other)]
    assert metadata[0].read_bytes() == metadata[1].read_bytes()
    assert verify_cache(tmp_path / "grown").faults == []


class Killed(BaseException):
    """Stands for a process that ends here."""


@pytest.mark.parametrize(
    "moment", ["before the tokens", "before their metadata", "before the journal"]
)
def test_a_writer_that_dies_on_the_way_leaves_the_finished_rows_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with made.writer(tmp_path / "c", layout=LAYOUT) as cache:
        cache.allocate("text", [caption(number) for number in range(6)])
        fill(cache, [3, 4])

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    place = {
        "before the tokens": (writer, "write_unit_words"),
        "before their metadata": (writer.write_unit_words.__globals__, "_metadata"),
        "before the journal": (writer.journal, "append"),
    }[moment]
    with monkeypatch.context() as patch, suppress(Killed):
        if isinstance(place[0], dict):
            patch.setitem(place[0], place[1], die)
        else:
            patch.setattr(*place, die)
        with made.writer(tmp_path / "c", layout=LAYOUT) as cache:
            fill(cache, [0, 1, 2, 5])
    assert_holds(tmp_path / "c", [3, 4])
    assert [fault for fault in verify_cache(tmp_path / "c").faults if not fault.harmless] == []
    with made.writer(tmp_path / "c", layout=LAYOUT) as cache:
        fill(cache, range(6))
    assert_holds(tmp_path / "c", range(6))
    assert verify_cache(tmp_path / "c").faults == []


def test_a_second_death_with_other_pending_rows_leaves_the_finished_rows_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made.writer(tmp_path / "c", layout=LAYOUT) as cache:
        cache.allocate("text", [caption(number) for number in range(6)])
        fill(cache, [3, 4])

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(writer.journal, "append", die)
        with made.writer(tmp_path / "c", layout=LAYOUT) as cache:
            fill(cache, [0, 1, 2, 5])
    write = writer.write_unit_words
    calls = []

    def die_at_the_second(*arguments: Any, **options: Any) -> str:
        calls.append(arguments)
        if len(calls) == 2:
            raise Killed
        return write(*arguments, **options)

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(writer, "write_unit_words", die_at_the_second)
        with made.writer(tmp_path / "c", layout=LAYOUT) as cache:
            fill(cache, [0, 1])
    assert len(calls) == 2
    assert_holds(tmp_path / "c", [3, 4])
    with made.writer(tmp_path / "c", layout=LAYOUT) as cache:
        fill(cache, range(6))
    assert_holds(tmp_path / "c", range(6))
    assert verify_cache(tmp_path / "c").faults == []


def test_damaged_tokens_are_found_and_never_kept(tmp_path: Path) -> None:
    with made.writer(tmp_path / "c", layout=LAYOUT) as cache:
        fill(cache, range(4))
    path = words_path(tmp_path / "c", 0)
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    (fault,) = verify_cache(tmp_path / "c").faults
    assert "its checksum is" in str(fault)
    assert fault.unit == ("text", 0)
    with (
        pytest.raises(CacheError, match="does not have the checksum of the journal"),
        made.writer(tmp_path / "c", layout=LAYOUT) as cache,
    ):
        fill(cache, [4])


@pytest.mark.parametrize("change", ["missing", "cut"])
def test_tokens_that_are_missing_or_cut_are_refused(tmp_path: Path, change: str) -> None:
    with made.writer(tmp_path / "c", layout=LAYOUT) as cache:
        fill(cache, range(4))
    path = words_path(tmp_path / "c", 0)
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(CacheError, match=r"chunk text/tokens/0/c/0/0 (is missing|has 78 bytes)"):
        open_cache(tmp_path / "c")
    assert [fault.unit for fault in verify_cache(tmp_path / "c").faults] == [("text", 0)]


def test_a_cache_without_tokens_says_how_to_get_them(tmp_path: Path) -> None:
    from tests.cache.made import make

    with pytest.raises(CacheError, match=r"holds no word tokens; set extract\.word_tokens"):
        open_cache(make(tmp_path / "c")).words(["v0#0"])
