"""The append-only record of finished units: what stands in it is done, nothing else is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gare_cache.cache.schema import Kind
from gare_cache.errors import CacheError
from gare_cache.files import fsync


@dataclass(frozen=True)
class RowOutcome:
    """What became of one row.

    Attributes:
        row: row number in the arrays.
        reason: why there are no features; None where there are.
        decoder: decoder used, for videos.
        switch_reason: why the decoder that the rule names was not used.
        digest: SHA-256 of the source's bytes, for videos.
    """

    row: int
    reason: str | None = None
    decoder: str | None = None
    switch_reason: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class UnitRecord:
    """A finished write of a unit.

    Attributes:
        kind: ``video`` or ``text``.
        unit: number of the chunk along the first axis.
        outcomes: the rows that this write filled.
        checksums: CRC-32C (hex) of each array's whole chunk after the write.
        seconds: time spent reading and decoding, encoding, writing.
    """

    kind: Kind
    unit: int
    outcomes: Sequence[RowOutcome]
    checksums: Mapping[str, str]
    seconds: Mapping[str, float]


def append(folder: Path, record: UnitRecord) -> None:
    """Append a record and flush it to the disk; its chunks must be there already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "units.jsonl"
    _drop_torn_line(path)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fsync(folder)


def read(folder: Path) -> list[UnitRecord]:
    """Read all records, oldest first; a last line without its end was never finished.

    Raises:
        CacheError: a line is no record.
    """
    records = []
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines[:-1], 1):
            try:
                fields = json.loads(line)
                outcomes = [RowOutcome(**outcome) for outcome in fields.pop("outcomes")]
                records.append(UnitRecord(outcomes=outcomes, **fields))
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as err:
                raise CacheError(
                    f"{path}:{number} is no journal record ({err}); the cache is damaged: move "
                    f"{folder.parent} away and extract again"
                ) from err
    return records


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
