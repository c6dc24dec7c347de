"""Append-only journal of finished units: a unit is complete if and only if it has a record here.

A line is a JSON object that ends with its CRC-32C (``line``) and names that of the line before it
(``after``), so that a damaged line and a lost one are told apart. Lines of earlier versions have
neither, and are read as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import google_crc32c

from gare_cache.cache.chunks import DROP_COMMAND
from gare_cache.cache.schema import JOURNAL, KINDS, Kind
from gare_cache.errors import CacheError
from gare_cache.files import append_line, last_line, replacing
from gare_cache.limits import parse_json, read_bytes

UNITS_FILE = "units.jsonl"
_CHECKSUM = re.compile(rb', "line": "([0-9a-f]{8})"\}$')


@dataclass(frozen=True, slots=True)
class RowOutcome:
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
        raise CacheError(
            f"{first.path}:{first.number}: {first.problem}; run `{DROP_COMMAND}`, then "
            "`gare-cache extract` to encode again what it recorded"
        )
    return records


def examine(folder: Path) -> tuple[list[UnitRecord], list[DamagedLine]]:
    """Read the records of a cache that are whole, in order, and the places that are not."""
    records, damage = [], []
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


def _files(folder: Path) -> list[Path]:
    return sorted((folder / JOURNAL).glob("*.jsonl"))


def _read_file(path: Path) -> Iterator[tuple[UnitRecord | None, DamagedLine | None]]:
    """Yield the record of every line, if it is whole, and what is wrong at its place."""
    before = b""
    for number, line in enumerate(read_bytes(path).split(b"\n")[:-1], 1):
        try:
            record, after = _parse(line)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            yield None, DamagedLine(path, number, f"the line is not a journal record ({err})")
        else:
            lost = after not in (None, _checksum(before))
            problem = "records before this line are lost"
            yield record, DamagedLine(path, number, problem) if lost else None
        before = line


def _line(record: UnitRecord, *, after: bytes) -> bytes:
    fields = {**asdict(record), "after": _checksum(after)}
    content = json.dumps(fields, ensure_ascii=False).encode()
    return content[:-1] + f', "line": "{google_crc32c.value(content):08x}"}}'.encode()


def _checksum(line: bytes) -> str:
    """Return the checksum that a line ends with; that of its bytes for an older line."""
    stored = _CHECKSUM.search(line)
    return stored[1].decode() if stored else f"{google_crc32c.value(line):08x}"


def _parse(line: bytes) -> tuple[UnitRecord, str | None]:
    """Return a line's record and the checksum of the line before it; None in an older line."""
    stored = _CHECKSUM.search(line)
    content = line[: stored.start()] + b"}" if stored else line
    if stored and _checksum(content) != stored[1].decode():
        raise ValueError("it does not have its checksum")
    fields = parse_json("the line", content)
    after = fields.pop("after") if stored else None
    outcomes = [RowOutcome(**outcome) for outcome in fields.pop("outcomes")]
    record = UnitRecord(outcomes=outcomes, **fields)
    numbers = [record.sequence, record.unit, *(outcome.row for outcome in outcomes)]
    if record.kind not in KINDS or not all(type(number) is int for number in numbers):
        raise ValueError(f"kind {record.kind!r}, unit {record.unit!r}")
    if min(numbers) < 0 or not isinstance(record.checksums, dict):
        raise ValueError(f"unit {record.unit!r}, checksums {record.checksums!r}")
    return record, after
