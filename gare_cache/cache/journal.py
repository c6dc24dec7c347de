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

from gare_cache.cache.chunks import DROP_COMMAND
from gare_cache.cache.schema import JOURNAL, KINDS, Kind
from gare_cache.errors import CacheError
from gare_cache.files import append_line, last_line, replacing
from gare_cache.limits import parse_json, read_bytes

_NOT_A_RECORD = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_CHECKSUM = re.compile(rb', "line": "([0-9a-f]{8})"\}')
_CHECKSUM_BYTES = 21
_DROP = f"run `{DROP_COMMAND}`, then `gare-cache extract` to encode again what it recorded"
# Around the outcomes of a line. Quotes are escaped within strings: only keys look like this.
_BEFORE, _AFTER = b'"outcomes": [', b'], "checksums": {'
_ROW, _REASON = b'{"row": ', b', "reason": '
_MOST_DIGITS = 18  # of an int64
_BYTES_AT_A_TIME = 2**20
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


class WrittenOutcomes(Sequence[RowOutcome]):
    """The outcomes of a line that has its checksum, of which only rows and states are parsed.

    Attributes:
        rows: (N,) rows of the arrays.
        failed: (N,) True where the outcome has a reason.
    """

    def __init__(
        self,
        where: str,
        line: bytes,
        text: slice,
        rows: npt.NDArray[np.int64],
        failed: npt.NDArray[np.bool_],
    ) -> None:
        """Keep the line with the text of the outcomes, parsed when one of them is asked for."""
        self._where, self._line, self._text = where, line, text
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
            return _outcomes(parse_json(self._where, b"[%b]" % self._line[self._text]))
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
        return _parse(line, None)[0]
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
    before = b""
    lines = read_bytes(path).split(b"\n")[:-1]
    for number, (line, outcomes) in enumerate(zip(lines, _written(path, lines), strict=True), 1):
        try:
            record, after = _parse(line, outcomes)
        except _NOT_A_RECORD as err:
            yield None, DamagedLine(path, number, f"the line is not a journal record ({err})")
        else:
            lost = after not in (None, _checksum(before))
            problem = "records before this line are lost"
            yield record, DamagedLine(path, number, problem) if lost else None
        before = line


def _line(record: UnitRecord, *, after: bytes) -> bytes:
    fields = {name: getattr(record, name) for name in UnitRecord.__slots__}
    fields["checksums"], fields["seconds"] = dict(record.checksums), dict(record.seconds)
    fields["outcomes"] = [_fields(outcome) for outcome in record.outcomes]
    content = json.dumps({**fields, "after": _checksum(after)}, ensure_ascii=False).encode()
    return content[:-1] + f', "line": "{google_crc32c.value(content):08x}"}}'.encode()


def _fields(outcome: RowOutcome) -> dict[str, Any]:
    """Return what a line holds of an outcome: captions have neither decoder nor digest."""
    row, reason, *others = outcome._asdict().items()
    return dict([row, reason, *((name, value) for name, value in others if value is not None)])


def _stored(line: bytes) -> str | None:
    """Return the checksum that a line ends with; None for an older line."""
    found = _CHECKSUM.fullmatch(line[-_CHECKSUM_BYTES:])
    return found[1].decode() if found else None


def _checksum(line: bytes) -> str:
    """Return the checksum that a line ends with; that of its bytes for an older line."""
    return _stored(line) or f"{google_crc32c.value(line):08x}"


def _parse(line: bytes, outcomes: WrittenOutcomes | None) -> tuple[UnitRecord, str | None]:
    """Return a line's record and the checksum of the line before it; None in an older line.

    Args:
        line: the line.
        outcomes: those of the line, if they have the form in which they are written.
    """
    stored = _stored(line)
    content = line[:-_CHECKSUM_BYTES] + b"}" if stored else line
    if stored and f"{google_crc32c.value(content):08x}" != stored:
        raise ValueError("it does not have its checksum")
    if stored and outcomes is not None:
        content = content[: content.find(_BEFORE) + len(_BEFORE)] + content[content.rfind(_AFTER) :]
    fields = parse_json("the line", content)
    after = fields.pop("after") if stored else None
    listed = _outcomes(fields.pop("outcomes"))
    found: Sequence[RowOutcome] = outcomes if stored and outcomes is not None else listed
    record = UnitRecord(outcomes=found, **fields)
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


def _written(path: Path, lines: Sequence[bytes]) -> Iterator[WrittenOutcomes | None]:
    """Yield the outcomes of each line; None if they do not have the form of ``_line``."""
    first, size = 0, 0
    for number, line in enumerate(lines, 1):
        size += len(line)
        if number == len(lines) or size > _BYTES_AT_A_TIME:  # what stays in the processor's cache
            some = lines[first:number]
            texts = [_outcomes_text(line) for line in some]
            columns = _columns([line[text] for line, text in zip(some, texts, strict=True)])
            for place, found in enumerate(columns):
                where = f"{path}:{first + place + 1}"
                usual = (where, some[place], texts[place])
                yield None if found is None else WrittenOutcomes(*usual, *found)
            first, size = number, 0


def _outcomes_text(line: bytes) -> slice:
    """Return where the outcomes of a line stand; where they do not, the whole line."""
    first, last = line.find(_BEFORE), line.rfind(_AFTER)
    found = first >= 0 and first + len(_BEFORE) <= last
    return slice(first + len(_BEFORE), last) if found else slice(None)


def _columns(texts: Sequence[bytes]) -> Iterator[_Columns | None]:
    """Yield the rows and states in the text of outcomes; None if it has another form."""
    joined = b"".join([*texts, bytes(_PADDING)])
    characters = np.frombuffer(joined, np.uint8)
    # The eight bytes from each place on, as a number.
    words = np.ndarray(len(joined) - 7, "<u8", joined, strides=(1,))
    starts = np.flatnonzero(characters == ord("{"))  # also within strings, which are then parsed
    at, rows = starts + len(_ROW), np.zeros(len(starts), np.int64)
    for _ in range(_MOST_DIGITS):
        digits = characters[at] - np.uint8(ord("0"))  # more than 9 for anything else
        is_digit = digits < 10
        if not is_digit.any():
            break
        rows = np.where(is_digit, 10 * rows + digits, rows)
        at += is_digit
    follows = characters[at + len(_REASON)]
    failed = follows == ord('"')
    usual = (at > starts + len(_ROW)) & (failed | (follows == ord("n")))
    usual &= words[starts] == _number(_ROW)
    usual &= words[at] == _number(_REASON[:8])
    usual &= words[at + len(_REASON) - 8] == _number(_REASON[-8:])
    ends = np.cumsum([len(text) for text in texts])
    bounds = np.searchsorted(starts, [0, *ends])
    for text, first, last in zip(texts, bounds[:-1], bounds[1:], strict=True):
        # The whole line, where it has no text of outcomes, does not start with one.
        whole = bool(usual[first:last].all()) and text[: len(_ROW)] in (b"", _ROW)
        yield (rows[first:last], failed[first:last]) if whole else None


def _number(eight: bytes) -> int:
    return int.from_bytes(eight, "little")
