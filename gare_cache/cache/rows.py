"""Row tables of a cache: the video or caption of each row, and its result."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, overload

import pyarrow as pa

from gare_cache.cache import journal
from gare_cache.cache.schema import KINDS, TABLES, Kind
from gare_cache.errors import CacheError, LimitExceeded, UnreadableFile, agreeing, counted
from gare_cache.files import canonical_digest, read_parquet, write_parquet

# The first column after the row number is the id. An item keeps the last row of its id only if all
# columns of KEYS are equal: a changed file or sentence gets a new row, even if it is changed back,
# so that the last row of an id is always the current one.
SOURCE_COLUMNS: dict[Kind, pa.Schema] = {
    "video": pa.schema(
        [
            ("video_id", pa.string()),
            ("path", pa.string()),
            ("start_seconds", pa.float64()),
            ("end_seconds", pa.float64()),
            ("size_bytes", pa.int64()),
            ("mtime_ns", pa.int64()),
        ]
    ),
    "text": pa.schema([("caption_id", pa.string()), ("caption", pa.string())]),
}
KEYS: dict[Kind, tuple[str, ...]] = {
    "video": ("video_id", "size_bytes", "mtime_ns"),
    "text": ("caption_id", "caption"),
}
ID: dict[Kind, str] = {"video": "video_id", "text": "caption_id"}
_ROWS_AT_A_TIME = 4096
_RESTORE = "restore it from a copy, or move the cache away and extract again"
_OUTCOME_COLUMNS = [
    ("status", pa.string()),  # ok, failed, pending
    ("reason", pa.string()),
    ("decoder", pa.string()),
    ("switch_reason", pa.string()),
    ("digest", pa.string()),
]


class Sources(Sequence[dict[str, Any]]):
    """The sources of one kind in row order.

    Those that were read stay columns, which take a fraction of the memory of dictionaries.
    """

    def __init__(self, kind: Kind, table: pa.Table | None = None) -> None:
        """Start with the rows of a table; None has none."""
        self._table = SOURCE_COLUMNS[kind].empty_table() if table is None else table
        self._added: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._table) + len(self._added)

    @overload
    def __getitem__(self, row: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, row: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, row: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        place = range(len(self))[row]
        if place >= len(self._table):
            return self._added[place - len(self._table)]
        return {name: self._table[name][place].as_py() for name in self._table.column_names}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._table.to_batches(max_chunksize=_ROWS_AT_A_TIME):
            yield from batch.to_pylist()
        yield from self._added

    def append(self, source: dict[str, Any]) -> None:
        """Add a source, which gets the next row."""
        self._added.append(source)

    def copy(self) -> Sources:
        """Return the same sources, to which others can be added."""
        new = copy.copy(self)
        new._added = list(self._added)
        return new

    def column(self, name: str) -> list[Any]:
        """Return one value of each source."""
        values: list[Any] = self._table[name].to_pylist()
        return values + [source[name] for source in self._added]


@dataclass
class RowTable:
    """The rows of one kind: sources in row order, outcomes by row, checksums by unit."""

    kind: Kind
    unit_rows: int
    sources: Sources
    outcomes: dict[int, journal.RowOutcome] = field(default_factory=dict)
    checksums: dict[int, dict[str, str]] = field(default_factory=dict)
    _writes: dict[int, list[journal.UnitRecord]] = field(default_factory=dict)  # of each unit

    def allocate(self, sources: Sequence[dict[str, Any]]) -> list[int]:
        """Return the row of each source; a new or changed source gets the next free row.

        Raises:
            CacheError: two of the sources have the same id.
        """
        id_, times = next(iter(Counter(s[ID[self.kind]] for s in sources).most_common(1)), ("", 0))
        if times > 1:
            raise CacheError(
                f"{counted(times, f'{self.kind} item', 'have')} the id {id_!r}; give every item "
                "a unique id and "
                "run `gare-cache prepare` again"
            )
        keys = self._keys()
        rows = {keys[row]: row for row in self.latest().values()}
        columns = SOURCE_COLUMNS[self.kind].names
        for source in sources:
            key = self._key(source)
            if key not in rows:
                rows[key] = len(self.sources)
                self.sources.append({name: source[name] for name in columns})
        return [rows[self._key(source)] for source in sources]

    def differing(self, sources: Sequence[dict[str, Any]]) -> list[str]:
        """Return the ids of the sources that the table holds with another file or sentence."""
        latest, keys = self.latest(), self._keys()
        ids = ((source[ID[self.kind]], source) for source in sources)
        return [
            id_ for id_, source in ids if id_ in latest and keys[latest[id_]] != self._key(source)
        ]

    def latest(self) -> dict[str, int]:
        """Return the last row of every id."""
        return {id_: row for row, id_ in enumerate(self.sources.column(ID[self.kind]))}

    def apply(self, record: journal.UnitRecord) -> None:
        """Apply a journal record: mark its rows as done, or those of a dropped unit as pending.

        Raises:
            CacheError: the record names rows that do not exist or belong to another unit.
        """
        for outcome in record.outcomes:
            row = outcome.row
            if row >= len(self.sources) or row // self.unit_rows != record.unit:
                raise CacheError(
                    f"the journal says that unit {record.unit} holds {self.kind} row {row}, but "
                    f"there {agreeing(len(self.sources), 'are')} "
                    f"{counted(len(self.sources), 'row')}, {self.unit_rows} per unit; "
                    "move the cache away and extract again"
                )
        if record.dropped:
            for row in self.done_rows(record.unit):
                del self.outcomes[row]
            self.checksums.pop(record.unit, None)
        else:
            self.outcomes.update({outcome.row: outcome for outcome in record.outcomes})
            self.checksums[record.unit] = dict(record.checksums)
            self._writes.setdefault(record.unit, []).append(record)

    def done_rows(self, unit: int) -> list[int]:
        """Return the rows of a unit that have an outcome."""
        first = unit * self.unit_rows
        return [row for row in range(first, first + self.unit_rows) if row in self.outcomes]

    def status(self, row: int) -> str:
        """Return ``ok``, ``failed`` or ``pending``."""
        if row not in self.outcomes:
            return "pending"
        return "ok" if self.outcomes[row].reason is None else "failed"

    def digest(self, num_rows: int | None = None) -> str:
        """Return the SHA-256 of ids, their states and the checksums of the chunks.

        Args:
            num_rows: of the first so many rows and of those that took their place later, each
                chunk as it was after the last write of one of them, so that what another project
                adds does not change it; None for all rows.
        """
        all_ids = self.sources.column(ID[self.kind])
        ids = set(all_ids[:num_rows])
        rows = [(row, id_, self.status(row)) for row, id_ in enumerate(all_ids) if id_ in ids]
        done = [row for row, _, status in rows if status != "pending"]
        checksums = [
            [unit, self._last_write(list(of_unit)).checksums]
            for unit, of_unit in groupby(done, lambda row: row // self.unit_rows)
        ]
        return canonical_digest([rows, checksums])

    def _last_write(self, rows: Sequence[int]) -> journal.UnitRecord:
        """Return the last write of one of the rows, which are of one unit."""
        records = self._writes[rows[0] // self.unit_rows]
        last = {outcome.row: record for record in records for outcome in record.outcomes}
        return max((last[row] for row in rows), key=lambda record: record.sequence)

    def write(self, folder: Path) -> None:
        """Write the table as Parquet, atomically."""
        rows = [self._row(row, source) for row, source in enumerate(self.sources)]
        schema = pa.schema([("row", pa.int64()), *SOURCE_COLUMNS[self.kind], *_OUTCOME_COLUMNS])
        write_parquet(folder / TABLES[self.kind], pa.Table.from_pylist(rows, schema=schema))

    def _row(self, row: int, source: dict[str, Any]) -> dict[str, Any]:
        outcome = self.outcomes.get(row)
        known = {
            name: getattr(outcome, name, None) for name in ("reason", "decoder", "switch_reason")
        }
        digest = getattr(outcome, "digest", None)
        return {
            "row": row,
            **source,
            "status": self.status(row),
            **known,
            "digest": digest,
        }

    def _keys(self) -> list[tuple[Any, ...]]:
        return list(zip(*(self.sources.column(name) for name in KEYS[self.kind]), strict=True))

    def _key(self, source: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(source[name] for name in KEYS[self.kind])


def read_sources(folder: Path, kind: Kind) -> Sources:
    """Read the sources of a kind in row order; a missing table counts as empty.

    Raises:
        CacheError: the table is unreadable, its rows are not numbered 0, 1, 2, ..., or an unchanged
            item has two rows.
    """
    path = folder / TABLES[kind]
    if not path.exists():
        return Sources(kind)
    names = SOURCE_COLUMNS[kind].names
    try:
        table = read_parquet(path, pa.schema([("row", pa.int64()), *SOURCE_COLUMNS[kind]]))
    except LimitExceeded:
        raise
    except UnreadableFile as err:
        raise CacheError(f"{path} is not a cache table ({err}); {_RESTORE}") from err
    if table["row"].to_pylist() != list(range(len(table))):
        raise CacheError(
            f"{path}: the rows are not numbered from 0 to {len(table) - 1}; {_RESTORE}"
        )
    sources = Sources(kind, table.select(names))
    current: dict[str, tuple[Any, ...]] = {}
    for key in zip(*(sources.column(name) for name in KEYS[kind]), strict=True):
        if current.get(key[0]) == key:  # the first is the id
            raise CacheError(f"{path}: item {key[0]!r} has two rows; {_RESTORE}")
        current[key[0]] = key
    return sources


def read_rows(
    folder: Path, records: Sequence[journal.UnitRecord], unit_rows: Mapping[Kind, int]
) -> dict[Kind, RowTable]:
    """Read both tables of a cache and apply its journal.

    Args:
        folder: the cache folder.
        records: its journal.
        unit_rows: rows per unit, by kind.

    Raises:
        CacheError: a table is damaged, or the journal contradicts it.
    """
    tables = {kind: RowTable(kind, unit_rows[kind], read_sources(folder, kind)) for kind in KINDS}
    for record in records:
        tables[record.kind].apply(record)
    return tables
