"""Write features unit by unit: first the chunks, flushed to disk, then the journal record."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache import journal
from gare_cache.cache.chunks import (
    DROP_COMMAND,
    checksum,
    chunk_path,
    keep_done_rows,
    read_chunk,
    write_chunk,
)
from gare_cache.cache.disk import environment_errors
from gare_cache.cache.group import open_group_for_writing, stored_array, stored_unit_rows
from gare_cache.cache.identity import Owner
from gare_cache.cache.lock import Shard, gate, shard_of_cache, whole_cache, writers
from gare_cache.cache.owner import claim, refuse_differing
from gare_cache.cache.rows import RowTable, read_rows, read_sources
from gare_cache.cache.schema import (
    JOURNAL,
    LENGTHS,
    WORDS,
    ArraySpec,
    Kind,
    Layout,
    thumbnail_path,
)
from gare_cache.cache.sizes import check_chunk_sizes
from gare_cache.cache.words import read_unit_words, words_path, write_unit_words
from gare_cache.errors import CacheError
from gare_cache.files import PARTIAL_SUFFIX

if TYPE_CHECKING:
    import zarr
    from torch import Tensor


@dataclass(frozen=True)
class PendingUnit:
    """Requested rows of one unit that are not done."""

    kind: Kind
    unit: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class CacheWriter:
    """A cache folder opened and locked by ``open_writer``.

    Attributes:
        folder: the cache folder.
        layout: shapes of the arrays.
        tables: the rows of each kind.
        owned: whether the cache belongs to the project that writes; otherwise its items stay what
            they are, and new ones are added.
    """

    folder: Path
    layout: Layout
    tables: dict[Kind, RowTable]
    owned: bool
    _group: zarr.Group
    _shard: Shard | None
    _retry_failed: bool
    _on_commit: Callable[[journal.UnitRecord], None] | None
    _sequence: Iterator[int]

    def allocate(self, kind: Kind, sources: Sequence[dict[str, Any]]) -> list[int]:
        """Assign a row to every source and grow the arrays; known sources keep their row.

        Safe with concurrent shards: each sees the rows that the others allocated.

        Args:
            kind: ``video`` or ``text``.
            sources: rows with the columns of ``rows.SOURCE_COLUMNS``.

        Returns:
            The row of each source.

        Raises:
            CacheError: two of the sources have the same id, or one is another file or sentence in
                the project that the cache belongs to.
            EnvironmentFailure: the file system refuses.
        """
        table = self.tables[kind]
        with environment_errors(self.folder), gate(self.folder):
            if self._shard:
                table.sources = read_sources(self.folder, kind)
            if not self.owned:
                refuse_differing(self.folder, table, sources)
            known = len(table.sources)
            rows = table.allocate(sources)
            if len(table.sources) > known:
                # Arrays first: the table never names a row beyond their end.
                for spec in self.layout.arrays(kind):
                    array = stored_array(self._group, spec, self.folder)
                    array.resize((len(table.sources), *spec.row_shape))
                table.write(self.folder)
        return rows

    def pending(self, kind: Kind, rows: Sequence[int]) -> list[PendingUnit]:
        """Return this writer's units with those of ``rows`` that are not done, in order.

        Failed rows count as done unless the writer retries them; units of other shards are left.
        """
        table = self.tables[kind]
        units: dict[int, list[int]] = {}
        for row in sorted(set(rows)):
            status = table.status(row)
            if status == "pending" or (self._retry_failed and status == "failed"):
                units.setdefault(row // table.unit_rows, []).append(row)
        return [
            PendingUnit(kind, unit, tuple(members))
            for unit, members in sorted(units.items())
            if self._shard is None or self._shard.owns(unit)
        ]

    def commit(
        self,
        pending: PendingUnit,
        values: Mapping[str, npt.NDArray[Any]],
        outcomes: Sequence[journal.RowOutcome],
        *,
        thumbnails: Mapping[int, bytes],
        seconds: Mapping[str, float],
    ) -> None:
        """Make a unit's rows durable: chunks, then thumbnails, then the journal record.

        Args:
            pending: the unit and its rows.
            values: array name -> (rows, ...) values in the order of ``pending.rows``; with word
                tokens also ``text/tokens``, (sum L, D) in the same order.
            outcomes: one per row.
            thumbnails: row -> JPEG.
            seconds: time spent before the write, by step.

        Raises:
            CacheError: the unit's earlier rows are damaged.
            EnvironmentFailure: the file system refuses; the unit counts as not done.
        """
        started = time.perf_counter()
        arrays = self.layout.arrays(pending.kind)
        with environment_errors(self.folder):
            words = self._words(pending, values) if pending.kind == "text" else None
            checksums = {
                spec.name: self._write(spec, pending, values[spec.name]) for spec in arrays
            }
            if words is not None:  # after their lengths, see ``cache.words``
                checksums[WORDS] = write_unit_words(
                    self.folder, pending.unit, words, dim=self.layout.dim
                )
            for row, jpeg in thumbnails.items():
                path = thumbnail_path(self.folder, row)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(jpeg)
            record = journal.UnitRecord(
                sequence=next(self._sequence),
                kind=pending.kind,
                unit=pending.unit,
                outcomes=outcomes,
                checksums=checksums,
                seconds={**seconds, "write": time.perf_counter() - started},
            )
            journal.append(units_file(self.folder, self._shard), record)
        self.take(record)

    def take(self, record: journal.UnitRecord) -> None:
        """Take note of a unit that this writer, or a worker that it drives, has committed."""
        self.tables[record.kind].apply(record)
        if self._on_commit:
            self._on_commit(record)

    def _write(self, spec: ArraySpec, pending: PendingUnit, values: npt.NDArray[Any]) -> str:
        chunk = self._done_before(spec, pending)
        chunk[np.asarray(pending.rows) - pending.unit * len(chunk)] = values
        write_chunk(self.folder, spec, pending.unit, chunk)
        return checksum(chunk)

    def _words(
        self, pending: PendingUnit, values: Mapping[str, npt.NDArray[Any]]
    ) -> dict[int, npt.NDArray[np.float16]] | None:
        """Merge the tokens of the done rows with those of the pending rows."""
        if not self.layout.words:
            return None
        table = self.tables["text"]
        words: dict[int, npt.NDArray[np.float16]] = {}
        if table.done_rows(pending.unit):
            kept = read_unit_words(self.folder, self.layout, table, pending.unit)
            if kept.checksum() != table.checksums[pending.unit][WORDS]:
                raise _not_as_recorded(words_path(self.folder, pending.unit))
            words |= kept.of_row
            if not kept.exact:  # a different set of pending rows would contradict its lengths
                write_unit_words(self.folder, pending.unit, words, dim=self.layout.dim)
        ends = np.cumsum(values[LENGTHS])
        words |= zip(pending.rows, np.split(values[WORDS], ends[:-1]), strict=True)
        return words

    def _done_before(self, spec: ArraySpec, pending: PendingUnit) -> npt.NDArray[Any]:
        # Keeps the done rows; clears what an interrupted write left in the others.
        table = self.tables[pending.kind]
        first = pending.unit * table.unit_rows
        done = [row - first for row in table.done_rows(pending.unit)]
        if not done:
            return spec.empty(table.unit_rows)
        stored = read_chunk(self.folder, spec, pending.unit, unit_rows=table.unit_rows)
        kept = keep_done_rows(stored, spec, done)
        expected = table.checksums[pending.unit][spec.name]
        if expected not in (checksum(stored), checksum(kept)):
            raise _not_as_recorded(chunk_path(self.folder, spec, pending.unit))
        return kept


@contextmanager
def open_writer(
    folder: Path,
    *,
    dataset: str,
    identity: dict[str, Any],
    layout: Layout,
    head_start: Mapping[str, Tensor],
    owner: Owner,
    shard: Shard | None = None,
    retry_failed: bool = False,
    on_commit: Callable[[journal.UnitRecord], None] | None = None,
) -> Iterator[CacheWriter]:
    """Open a cache folder for writing; create it if missing.

    Args:
        folder: ``ROOT/<dataset>-<id12>``.
        dataset: name of the data set.
        identity: the extraction identity; the folder belongs to it alone.
        layout: shapes of the arrays.
        head_start: tensors that heads start from.
        owner: the project that writes; a cache without an owner becomes its own.
        shard: write the units of this shard only; None writes all, as the only writer.
        retry_failed: treat failed rows as pending.
        on_commit: called with every record once it is durable; an exception stops the writing.

    Raises:
        CacheError: another process writes, the folder has another format, or it is damaged.
        FingerprintMismatch: the folder belongs to another extraction.
        EnvironmentFailure: the file system refuses.
    """
    with _locked(folder, shard):
        with environment_errors(folder), gate(folder):
            if len(writers(folder)) == 1:  # another shard's temporary files are in use
                _sweep(folder)
            group = open_group_for_writing(
                folder, dataset=dataset, identity=identity, layout=layout, head_start=head_start
            )
            records = journal.read(folder)
            tables = read_rows(folder, records, stored_unit_rows(layout, folder))
            owned = claim(folder, owner)
        check_chunk_sizes(folder, layout, tables)
        yield CacheWriter(
            folder=folder,
            layout=layout,
            tables=tables,
            owned=owned,
            _group=group,
            _shard=shard,
            _retry_failed=retry_failed,
            _on_commit=on_commit,
            _sequence=itertools.count(1 + max((r.sequence for r in records), default=0)),
        )
        if shard is None:  # a shard does not know the others' outcomes
            with environment_errors(folder):
                for table in tables.values():
                    table.write(folder)


def drop_units(folder: Path, units: Sequence[tuple[Kind, int]]) -> None:
    """Record that units are not done, so that the next extraction writes them again.

    Damaged lines of the journal are left out of it from then on.

    Raises:
        CacheError: another process writes.
        EnvironmentFailure: the file system refuses.
    """
    with _locked(folder, None), environment_errors(folder):
        journal.keep_whole_lines(folder)
        last = max((r.sequence for r in journal.read(folder)), default=0)
        for number, (kind, unit) in enumerate(units, last + 1):
            record = journal.UnitRecord(
                sequence=number,
                kind=kind,
                unit=unit,
                outcomes=(),
                checksums={},
                seconds={},
                dropped=True,
            )
            journal.append(units_file(folder, None), record)


def units_file(folder: Path, shard: Shard | None) -> Path:
    """Return the file of the journal that a shard appends to; None is the whole cache's writer."""
    name = f"worker-{shard.index}-of-{shard.count}.jsonl" if shard else "units.jsonl"
    return folder / JOURNAL / name


def partial_files(folder: Path) -> list[Path]:
    """List the temporary files that killed writers left."""
    return sorted(folder.rglob(f"*{PARTIAL_SUFFIX}"))


@contextmanager
def _locked(folder: Path, shard: Shard | None) -> Iterator[None]:
    with ExitStack() as stack:
        with environment_errors(folder):
            lock = shard_of_cache(folder, shard) if shard else whole_cache(folder)
            stack.enter_context(lock)
        yield


def _not_as_recorded(path: Path) -> CacheError:
    return CacheError(
        f"{path} does not have the checksum of the journal, so the unit's other rows cannot be "
        f"kept; run `{DROP_COMMAND}`, then `gare-cache extract`"
    )


def _sweep(folder: Path) -> None:
    for leftover in partial_files(folder):
        leftover.unlink()
