"""Append-only journal of finished units: a unit is complete if and only if it has a record here.

A line is a JSON object that ends with its CRC-32C (``line``) and names that of the line before it
(``after``), so that a damaged line and a lost one are told apart. Lines of earlier versions have
neither, and are read as they are.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, overload

import google_crc32c
import numpy as np
import numpy.typing as npt

from gare_cache.cache.chunks import DROP_COMMAND, checksum
from gare_cache.cache.schema import JOURNAL, KINDS, Kind
from gare_cache.errors import CacheError
from gare_cache.files import append_line, last_line, replacing
from gare_cache.limits import parse_json, read_bytes

_NOT_A_RECORD = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_CHECKSUM = re.compile(rb', "line": "([0-9a-f]{8})"\}')
_CHECKSUM_BYTES = 21
_DROP = f"run `{DROP_COMMAND}`, then `gare-cache extract` to encode again what it recorded"
# The outcomes of a line. Quotes are escaped within strings: only keys look like this.
_OUTCOMES = re.compile(rb'"outcomes": \[(.*)\], "checksums": \{', re.DOTALL)
_ROW, _REASON = b'{"row": ', b', "reason": '
_PADDING = 64  # more than an outcome's row and reason take


class RowOutcome(NamedTuple):
    """Result of one row: features, or the reason for their absence.

    Attributes:
        row: row of the arrays.
        reason: why the row has no features; None if it has some.
        decoder: name of the decoder, for videos.
        switch_reason: why the decoder that the rule prefers was not used.
        digest: SHA-256 of the source's bytes, for videos.
    """

    row: int
    reason: str | None = None
    decoder: str | None = None
    switch_reason: str | None = None
    digest: str | None = None


_values = itemgetter(*RowOutcome._fields)
_Columns = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]
_Decimals = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
_Places = npt.NDArray[np.int64] | slice


class WrittenOutcomes(Sequence[RowOutcome]):
    """The outcomes of a line that has its checksum, of which only rows and states are parsed.

    Attributes:
        rows: (N,) rows of the arrays.
        failed: (N,) True where the outcome has a reason.
    """

    def __init__(
        self,
        where: str,
        text: memoryview,
        rows: npt.NDArray[np.int64],
        failed: npt.NDArray[np.bool_],
    ) -> None:
        """Keep the text of the outcomes, parsed when one of them is asked for."""
        self._where, self._text = where, text
        self.rows, self.failed = rows, failed

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> RowOutcome: ...
    @overload
    def __getitem__(self, place: slice) -> list[RowOutcome]: ...
    def __getitem__(self, place: int | slice) -> RowOutcome | list[RowOutcome]:
        return self._parsed[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._parsed == list(other)

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def _parsed(self) -> list[RowOutcome]:
        try:
            return _outcomes(parse_json(self._where, b"[%b]" % bytes(self._text)))
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise CacheError(
                f"{self._where}: the line is not a journal record ({err}); {_DROP}"
            ) from err


def rows_and_failed(outcomes: Sequence[RowOutcome]) -> _Columns:
    """Return the row of each outcome, and whether it has a reason."""
    if isinstance(outcomes, WrittenOutcomes):
        return outcomes.rows, outcomes.failed
    rows = np.array([outcome.row for outcome in outcomes], np.int64)
    return rows, np.array([outcome.reason is not None for outcome in outcomes], bool)


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """A finished write of a unit, or the withdrawal of a unit found damaged.

    Attributes:
        sequence: position in the order of all records, across the journal's files.
        kind: ``video`` or ``text``.
        unit: number of the chunk along the first axis.
        outcomes: results of the rows that this write filled.
        checksums: CRC-32C (hex) of each array's whole chunk after the write.
        seconds: time spent on reading and decoding, on encoding, on writing.
        dropped: the unit was found damaged; none of its rows counts as done any more.
    """

    sequence: int
    kind: Kind
    unit: int
    outcomes: Sequence[RowOutcome]
    checksums: Mapping[str, str]
    seconds: Mapping[str, float]
    dropped: bool = False


@dataclass(frozen=True)
class DamagedLine:
    """A place of the journal that is not as it was written.

    Attributes:
        path: file of the journal.
        number: line, from 1.
        problem: what is wrong.
    """

    path: Path
    number: int
    problem: str


def append(path: Path, record: UnitRecord) -> None:
    """Append a record to a file and flush it to disk; its chunks must be on disk already."""
    append_line(path, _line(record, after=last_line(path)).decode())


def last_record(path: Path) -> UnitRecord | None:
    """Return the last record of a file; None if there is none.

    Raises:
        CacheError: the line is damaged.
    """
    line = last_line(path)
    if not line:
        return None
    try:
        return _parse(str(path), memoryview(line))[0]
    except _NOT_A_RECORD as err:
        raise CacheError(f"{path}: the last line is not a journal record ({err}); {_DROP}") from err


def read(folder: Path) -> list[UnitRecord]:
    """Read the records of all files of a cache in the order of their sequence numbers.

    An unterminated last line is ignored: its write was interrupted.

    Args:
        folder: the cache folder.

    Raises:
        CacheError: a line is damaged or lost.
    """
    records, damage = examine(folder)
    if damage:
        first = damage[0]
        raise CacheError(f"{first.path}:{first.number}: {first.problem}; {_DROP}")
    return records


def examine(folder: Path) -> tuple[list[UnitRecord], list[DamagedLine]]:
    """Read the records of a cache that are whole, in order, and the places that are not."""
    records, damage = [], []
    with _without_collection():
        for path in _files(folder):
            for record, damaged in _read_file(path):
                if record is not None:
                    records.append(record)
                if damaged is not None:
                    damage.append(damaged)
    return sorted(records, key=lambda record: record.sequence), damage


def keep_whole_lines(folder: Path) -> None:
    """Rewrite the damaged files of a cache's journal with the records that are whole."""
    for path in _files(folder):
        found = list(_read_file(path))
        if any(damage for _, damage in found):
            content = b""
            last = b""
            for record, _ in found:
                if record is not None:
                    last = _line(record, after=last)
                    content += last + b"\n"
            with replacing(path) as partial:
                partial.write_bytes(content)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Leave garbage alone: scanning a million new objects, none of it garbage, takes as long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _files(folder: Path) -> list[Path]:
    return sorted((folder / JOURNAL).glob("*.jsonl"))


def _read_file(path: Path) -> Iterator[tuple[UnitRecord | None, DamagedLine | None]]:
    """Yield the record of every line, if it is whole, and what is wrong at its place."""
    before = memoryview(b"")
    for number, line in enumerate(_lines(read_bytes(path)), 1):
        try:
            record, after = _parse(f"{path}:{number}", line)
        except _NOT_A_RECORD as err:
            yield None, DamagedLine(path, number, f"the line is not a journal record ({err})")
        else:
            lost = after not in (None, _checksum(before))
            problem = "records before this line are lost"
            yield record, DamagedLine(path, number, problem) if lost else None
        before = line


def _lines(content: bytes) -> Iterator[memoryview]:
    """Yield the lines of a file, which are long, without copying them."""
    whole, start = memoryview(content), 0
    while (end := content.find(b"\n", start)) >= 0:
        yield whole[start:end]
        start = end + 1


def _line(record: UnitRecord, *, after: bytes) -> bytes:
    fields = {name: getattr(record, name) for name in UnitRecord.__slots__}
    fields["checksums"], fields["seconds"] = dict(record.checksums), dict(record.seconds)
    fields["outcomes"] = [outcome._asdict() for outcome in record.outcomes]
    content = json.dumps({**fields, "after": _checksum(after)}, ensure_ascii=False).encode()
    return content[:-1] + f', "line": "{google_crc32c.value(content):08x}"}}'.encode()


def _stored(line: bytes | memoryview) -> str | None:
    """Return the checksum that a line ends with; None for an older line."""
    found = _CHECKSUM.fullmatch(line[-_CHECKSUM_BYTES:])
    return found[1].decode() if found else None


def _checksum(line: bytes | memoryview) -> str:
    """Return the checksum that a line ends with; that of its bytes for an older line."""
    return _stored(line) or checksum(np.frombuffer(line, np.uint8))


def _parse(where: str, line: memoryview) -> tuple[UnitRecord, str | None]:
    """Return a line's record and the checksum of the line before it; None in an older line."""
    stored = _stored(line)
    content = line[:-_CHECKSUM_BYTES] if stored else line
    if stored and checksum(np.frombuffer(content, np.uint8), b"}") != stored:
        raise ValueError("it does not have its checksum")
    parts = [content, b"}" if stored else b""]
    written = _written(where, content) if stored else None
    if written is not None:
        outcomes, text = written
        parts[:1] = [content[: text.start], content[text.stop :]]
    fields = parse_json("the line", b"".join(parts))
    after = fields.pop("after") if stored else None
    listed = _outcomes(fields.pop("outcomes"))
    record = UnitRecord(outcomes=listed if written is None else outcomes, **fields)
    numbers = [record.sequence, record.unit, *(outcome.row for outcome in listed)]
    if record.kind not in KINDS or not all(type(number) is int for number in numbers):
        raise ValueError(f"kind {record.kind!r}, unit {record.unit!r}")
    if min(numbers) < 0 or max(numbers) >= 2**63 or not isinstance(record.checksums, dict):
        raise ValueError(f"unit {record.unit!r}, checksums {record.checksums!r}")
    return record, after


def _outcomes(parsed: Sequence[dict[str, Any]]) -> list[RowOutcome]:
    return [
        RowOutcome._make(_values(of)) if len(of) == len(RowOutcome._fields) else RowOutcome(**of)
        for of in parsed
    ]


def _written(where: str, line: memoryview) -> tuple[WrittenOutcomes, slice] | None:
    """Return the outcomes of a line and where they stand; None in another form than ``_line``'s."""
    found = _OUTCOMES.search(line)
    if found is None:
        return None
    text = slice(*found.span(1))
    columns = _columns(line[text])
    return None if columns is None else (WrittenOutcomes(where, line[text], *columns), text)


def _columns(text: memoryview) -> _Columns | None:
    """Return the rows and states in the text of outcomes; None if it has another form."""
    joined = b"".join([text, bytes(_PADDING)])
    characters = np.frombuffer(joined, np.uint8)
    # The eight bytes from each place on, as a number.
    words = np.ndarray(len(joined) - 7, "<u8", joined, strides=(1,))
    starts = _starts(characters[: len(text)])
    rows, digits = _decimals(words[_after(starts, len(_ROW))])
    alike = len(digits) and bool((digits == digits[0]).all())
    at = _after(starts, len(_ROW) + (int(digits[0]) if alike else digits))
    follows = characters[_after(at, len(_REASON))]
    failed = follows == ord('"')
    usual = (digits > 0) & (failed | (follows == ord("n")))
    usual &= words[starts] == _number(_ROW)
    usual &= words[at] == _number(_REASON[:8])
    usual &= words[_after(at, len(_REASON) - 8)] == _number(_REASON[-8:])
    return (rows, failed) if usual.all() and text[: len(_ROW)] in (b"", _ROW) else None


def _starts(text: npt.NDArray[np.uint8]) -> _Places:
    """Return the places of "{", also those within strings, which are then parsed."""
    is_start = text == ord("{")
    count = int(np.count_nonzero(is_start))
    # Outcomes of one length, as most are, follow one another at one distance, with ", " between.
    stride, rest = divmod(len(text) + 2, count) if count else (0, 1)
    if not rest and np.count_nonzero(is_start[::stride]) == count:
        return slice(0, count * stride, stride)  # which numpy reads faster than single places
    return np.flatnonzero(is_start)


def _after(places: _Places, distance: int | npt.NDArray[np.int64]) -> _Places:
    if isinstance(places, slice) and isinstance(distance, int):
        return slice(places.start + distance, places.stop + distance, places.step)
    if isinstance(places, slice):
        places = np.arange(places.start, places.stop, places.step)
    return places + distance


def _decimals(words: npt.NDArray[np.uint64]) -> _Decimals:
    """Return the number that each eight characters begin with, and its digits: up to seven."""
    less = words - np.uint64(0x3030303030303030)
    # The first bit of each byte above 9; of later bytes also others, from which a borrow took 1.
    others = (less | (less + np.uint64(0x7676767676767676))) & np.uint64(0x8080808080808080)
    first = others & (~others + np.uint64(1))  # 2 to the 8 digits + 7
    digits = (np.frexp(first.astype(np.float64))[1].astype(np.int64) - 8) // 8
    numbers = less << (64 - 8 * digits).astype(np.uint64)  # zeros before the digits
    for size, kept in ((1, 0x00FF00FF00FF00FF), (2, 0x0000FFFF0000FFFF), (4, 0xFFFFFFFF)):
        numbers = numbers * np.uint64(10**size) + (numbers >> np.uint64(8 * size))
        numbers &= np.uint64(kept)
    return numbers.astype(np.int64), digits


def _number(eight: bytes) -> int:
    return int.from_bytes(eight, "little")
