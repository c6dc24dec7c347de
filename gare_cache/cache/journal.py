"""Append-only journal of finished units: a unit is complete if and only if it has a record here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gare_cache.cache.schema import KINDS, Kind
from gare_cache.errors import CacheError
from gare_cache.files import append_line

UNITS_FILE = "units.jsonl"


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


def append(path: Path, record: UnitRecord) -> None:
    """Append a record to a file and flush it to disk; its chunks must be on disk already."""
    append_line(path, json.dumps(asdict(record), ensure_ascii=False))


def read(folder: Path) -> list[UnitRecord]:
    """Read the records of all files in the order of their sequence numbers.

    An unterminated last line is ignored: its write was interrupted.

    Raises:
        CacheError: a line is not a record.
    """
    records = []
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], 1):
            try:
                records.append(_parse(line))
            except (ValueError, KeyError, TypeError, AttributeError) as err:
                raise CacheError(
                    f"{path}:{number} is not a journal record ({err}); the cache is damaged: move "
                    f"{folder.parent} away and extract again"
                ) from err
    return sorted(records, key=lambda record: record.sequence)


def _parse(line: bytes) -> UnitRecord:
    fields = json.loads(line)
    outcomes = [RowOutcome(**outcome) for outcome in fields.pop("outcomes")]
    record = UnitRecord(outcomes=outcomes, **fields)
    numbers = [record.sequence, record.unit, *(outcome.row for outcome in outcomes)]
    if record.kind not in KINDS or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"kind {record.kind!r}, unit {record.unit!r}")
    return record
