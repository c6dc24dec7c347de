"""Row tables of a cache: the video or caption of each row, and its result."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

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
Ids: TypeAlias = "Sequence[str] | pa.ChunkedArray"  # of items, as asked for
_ROWS_AT_A_TIME = 4096
_FEW = 16  # less than this part of all ids is looked up in a dictionary, made once,
_SCANNED = 32  # but the first so many in the column, which is as fast for that many
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
        self._id = ID[kind]
        self._last: dict[str, int] = {}
        self._distinct: bool | None = None
        self._scanned = 0

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
        new._added, new._last = list(self._added), {}
        return new

    def column(self, name: str) -> list[Any]:
        """Return one value of each source."""
        column = self._table[name]
        # Without nulls numpy makes the list in a third of the time; with them it makes NaN.
        values: list[Any] = column.to_pylist() if column.null_count else column.to_numpy().tolist()
        return values + [source[name] for source in self._added]

    def find(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Return the last row of each id; -1 of an unknown one."""
        many, scanned = len(ids) * _FEW > len(self._table), self._scanned + len(ids)
        if not self._added and self.are_distinct() and (many or scanned <= _SCANNED):
            column, among = _column(ids), self._table[self._id]
            if pa.types.is_string(column.type) and many:
                return _places(column, among)
            if pa.types.is_string(column.type):
                self._scanned = scanned
                return np.array([pc.index(among, id_).as_py() for id_ in column], np.int64)
        last = self.last_rows()
        return np.fromiter((last.get(id_, -1) for id_ in listed(ids)), np.int64, len(ids))

    def are_distinct(self) -> bool:
        """Return whether every id that was read has one row."""
        if self._distinct is None:
            self._distinct = len(pc.unique(self._table[self._id])) == len(self._table)
        return self._distinct

    def last_rows(self) -> Mapping[str, int]:
        """Return the last row of every id."""
        if len(self) and next(reversed(self._last.values()), -1) < len(self) - 1:
            ids = self.column(self._id)
            self._last = dict(zip(ids, range(len(ids)), strict=True))
        return self._last


class Outcomes(Mapping[int, journal.RowOutcome]):
    """The outcomes of the rows of one kind, by row: the last write of each row, as columns."""

    def __init__(self) -> None:
        """Start without outcomes."""
        self._writes: list[journal.UnitRecord] = []
        self._write = np.empty(0, np.int32)  # by row, place in ``_writes``; -1 for none
        self._place = np.empty(0, np.int32)  # by row, place in its outcomes
        self._failed = np.empty(0, bool)

    def __len__(self) -> int:
        return int((self._write >= 0).sum())

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self._write >= 0).tolist())

    def __contains__(self, row: object) -> bool:
        if not isinstance(row, int | np.integer) or not 0 <= int(row) < len(self._write):
            return False
        return bool(self._write[int(row)] >= 0)

    def __getitem__(self, row: int) -> journal.RowOutcome:
        if row not in self:
            raise KeyError(row)
        outcomes = self._writes[int(self._write[row])].outcomes
        return outcomes[int(self._place[row])]

    def has(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return whether each row has an outcome; -1 has none."""
        known = (rows >= 0) & (rows < len(self._write))
        known[known] = self._write[rows[known]] >= 0
        return known

    def has_failed(self, row: int) -> bool:
        """Return whether the outcome of a row, which has one, is the reason for a failure."""
        return bool(self._failed[row])

    def failed(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return whether the outcome of each row is the reason for a failure."""
        failed = self.has(rows)
        failed[failed] = self._failed[rows[failed]]
        return failed

    def ok(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return whether each row has features."""
        return self.has(rows) & ~self.failed(rows)

    def add(self, record: journal.UnitRecord) -> None:
        """Replace the outcomes of the rows of a write."""
        rows, failed = journal.rows_and_failed(record.outcomes)
        missing = int(rows.max(initial=-1)) + 1 - len(self._write)
        if missing > 0:
            missing = max(missing, len(self._write))
            self._write = np.append(self._write, np.full(missing, -1, np.int32))
            self._place = np.append(self._place, np.zeros(missing, np.int32))
            self._failed = np.append(self._failed, np.zeros(missing, bool))
        self._write[rows] = len(self._writes)
        self._place[rows] = np.arange(len(rows))
        self._failed[rows] = failed
        self._writes.append(record)

    def forget(self, first: int, last: int) -> None:
        """Remove the outcomes of the rows from ``first`` to before ``last``."""
        self._write[first:last] = -1

    def last_write(self, rows: npt.NDArray[np.int64]) -> journal.UnitRecord:
        """Return the last of the writes that hold for some rows, which have outcomes."""
        places: list[int] = np.unique(self._write[rows]).tolist()
        return max((self._writes[at] for at in places), key=lambda record: record.sequence)


@dataclass
class RowTable:
    """The rows of one kind: sources in row order, outcomes by row, checksums by unit."""

    kind: Kind
    unit_rows: int
    sources: Sources
    outcomes: Outcomes = field(default_factory=Outcomes)
    checksums: dict[int, dict[str, str]] = field(default_factory=dict)

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

    def latest(self) -> Mapping[str, int]:
        """Return the last row of every id."""
        return self.sources.last_rows()

    def failed_ids(self) -> list[str]:
        """Return the ids whose last row failed."""
        if not self.outcomes.failed(np.arange(len(self.sources))).any():
            return []
        latest = self.latest()
        failed = self.outcomes.failed(np.fromiter(latest.values(), np.int64, len(latest)))
        return [id_ for id_, of in zip(latest, failed.tolist(), strict=True) if of]

    def apply(self, record: journal.UnitRecord) -> None:
        """Apply a journal record: mark its rows as done, or those of a dropped unit as pending.

        Raises:
            CacheError: the record names rows that do not exist or belong to another unit.
        """
        rows, _ = journal.rows_and_failed(record.outcomes)
        size = len(self.sources)
        # A unit's rows follow one another.
        for row in (int(rows.min()), int(rows.max())) if len(rows) else ():
            if row >= size or row // self.unit_rows != record.unit:
                raise CacheError(
                    f"the journal says that unit {record.unit} holds {self.kind} row {row}, but "
                    f"there {agreeing(len(self.sources), 'are')} "
                    f"{counted(len(self.sources), 'row')}, {self.unit_rows} per unit; "
                    "move the cache away and extract again"
                )
        if record.dropped:
            first = record.unit * self.unit_rows
            self.outcomes.forget(first, first + self.unit_rows)
            self.checksums.pop(record.unit, None)
        else:
            self.outcomes.add(record)
            self.checksums[record.unit] = dict(record.checksums)

    def done_rows(self, unit: int) -> list[int]:
        """Return the rows of a unit that have an outcome."""
        rows = np.arange(unit * self.unit_rows, (unit + 1) * self.unit_rows)
        done: list[int] = rows[self.outcomes.has(rows)].tolist()
        return done

    def states(self) -> list[str]:
        """Return ``ok``, ``failed`` or ``pending`` for every row."""
        rows = np.arange(len(self.sources))
        states = np.where(self.outcomes.has(rows), "ok", "pending")
        states[self.outcomes.failed(rows)] = "failed"
        listed: list[str] = states.tolist()
        return listed

    def status(self, row: int) -> str:
        """Return ``ok``, ``failed`` or ``pending``."""
        if row not in self.outcomes:
            return "pending"
        return "failed" if self.outcomes.has_failed(row) else "ok"

    def digest(self, num_rows: int | None = None) -> str:
        """Return the SHA-256 of ids, their states and the checksums of the chunks.

        Args:
            num_rows: of the first so many rows and of those that took their place later, each
                chunk as it was after the last write of one of them, so that what another project
                adds does not change it; None for all rows.
        """
        all_ids = self.sources.column(ID[self.kind])
        ids = set(all_ids[:num_rows])
        states = zip(range(len(all_ids)), all_ids, self.states(), strict=True)
        rows = [(row, id_, state) for row, id_, state in states if id_ in ids]
        done = np.array([row for row, _, state in rows if state != "pending"], np.int64)
        units, starts = np.unique(done // self.unit_rows, return_index=True)
        checksums = (
            [
                [unit, self.outcomes.last_write(of_unit).checksums]
                for unit, of_unit in zip(units.tolist(), np.split(done, starts[1:]), strict=True)
            ]
            if len(units)
            else []
        )
        return canonical_digest([rows, checksums])

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


def listed(ids: Ids) -> Sequence[str]:
    """Return ids as strings of Python."""
    return ids.to_pylist() if isinstance(ids, pa.ChunkedArray) else ids


def _column(ids: Ids) -> pa.ChunkedArray:
    if isinstance(ids, pa.ChunkedArray):
        return ids
    with suppress(TypeError, ValueError):  # of several types, or no Unicode
        return pa.chunked_array([pa.array(ids)])
    return pa.chunked_array([], pa.null())


def _places(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the place of each id among distinct ones; -1 if it is not there."""
    first = pc.index(among, ids[0]).as_py()
    if among.slice(max(first, 0), len(ids)).equals(ids):  # as most splits
        return np.arange(first, first + len(ids))
    places: npt.NDArray[np.int32] = pc.index_in(ids, value_set=among).fill_null(-1).to_numpy()
    return places.astype(np.int64)


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
    if not np.array_equal(table["row"].to_numpy(), np.arange(len(table))):
        raise CacheError(
            f"{path}: the rows are not numbered from 0 to {len(table) - 1}; {_RESTORE}"
        )
    sources = Sources(kind, table.select(names))
    if sources.are_distinct():
        return sources
    current: dict[str, tuple[Any, ...]] = {}
    for key in zip(*(sources.column(name) for name in KEYS[kind]), strict=True):
        if current.get(key[0]) == key:  # the first is the id
            raise CacheError(f"{path}: item {key[0]!r} has two rows; {_RESTORE}")
        current[key[0]] = key
    return sources


def read_rows(
    folder: Path,
    records: Sequence[journal.UnitRecord],
    unit_rows: Mapping[Kind, int],
    read: Callable[[Path, Kind], Sources] = read_sources,
) -> dict[Kind, RowTable]:
    """Read both tables of a cache and apply its journal.

    Args:
        folder: the cache folder.
        records: its journal.
        unit_rows: rows per unit, by kind.
        read: reads the sources of a kind.

    Raises:
        CacheError: a table is damaged, or the journal contradicts it.
    """
    tables = {kind: RowTable(kind, unit_rows[kind], read(folder, kind)) for kind in KINDS}
    for record in records:
        tables[record.kind].apply(record)
    return tables
