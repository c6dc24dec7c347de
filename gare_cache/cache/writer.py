"""Write features unit by unit: chunks first, flushed to the disk, then the journal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from safetensors.torch import save_file
from torch import Tensor

from gare_cache.cache import journal
from gare_cache.cache.lock import exclusive
from gare_cache.cache.rows import RowTable, read_rows
from gare_cache.cache.schema import (
    FEATURES,
    FORMAT_VERSION,
    HEAD_START,
    JOURNAL,
    KINDS,
    LOCK,
    THUMBNAILS,
    ArraySpec,
    Kind,
    Layout,
    check_format,
)
from gare_cache.errors import CacheError, FingerprintMismatch
from gare_cache.files import PARTIAL_SUFFIX, canonical_digest, fsync, replacing


@dataclass(frozen=True)
class PendingUnit:
    """Rows of one unit that are asked for and not done."""

    kind: Kind
    unit: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class CacheWriter:
    """An open cache folder, locked for this process; made by ``open_writer``."""

    folder: Path
    layout: Layout
    tables: dict[Kind, RowTable]
    _group: zarr.Group

    def allocate(self, kind: Kind, sources: Sequence[dict[str, Any]]) -> list[int]:
        """Give every source a row, known ones their old row, and make room for them.

        Args:
            kind: ``video`` or ``text``.
            sources: rows with the columns of ``rows.SOURCE_COLUMNS``.

        Returns:
            The row of each source.
        """
        table = self.tables[kind]
        known = len(table.sources)
        rows = table.allocate(sources)
        if len(table.sources) > known:
            # Arrays first: a table never names a row that has no place.
            for spec in self.layout.arrays(kind):
                self._array(spec).resize((len(table.sources), *spec.row_shape))
            table.write(self.folder)
        return rows

    def pending(self, kind: Kind, rows: Sequence[int]) -> list[PendingUnit]:
        """Return the units that hold some of ``rows`` not done, in order."""
        unit_rows = self.layout.unit_rows(kind)
        done = self.tables[kind].outcomes
        units: dict[int, list[int]] = {}
        for row in sorted(set(rows)):
            if row not in done:
                units.setdefault(row // unit_rows, []).append(row)
        return [PendingUnit(kind, unit, tuple(members)) for unit, members in sorted(units.items())]

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
            values: array name -> (rows, ...) values in the order of ``pending.rows``.
            outcomes: one a row.
            thumbnails: row -> JPEG.
            seconds: time spent before the write, by side.
        """
        started = time.perf_counter()
        arrays = self.layout.arrays(pending.kind)
        checksums = {spec.name: self._write(spec, pending, values[spec.name]) for spec in arrays}
        for row, jpeg in thumbnails.items():
            path = thumbnail_path(self.folder, row)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(jpeg)
        record = journal.UnitRecord(
            kind=pending.kind,
            unit=pending.unit,
            outcomes=outcomes,
            checksums=checksums,
            seconds={**seconds, "write": time.perf_counter() - started},
        )
        journal.append(self.folder / JOURNAL, record)
        self.tables[pending.kind].note(record)

    def _write(self, spec: ArraySpec, pending: PendingUnit, values: npt.NDArray[Any]) -> str:
        array = self._array(spec)
        unit_rows = array.chunks[0]
        first = pending.unit * unit_rows
        chunk = spec.empty(unit_rows)
        existing = np.asarray(array[first : first + unit_rows])
        chunk[: len(existing)] = existing
        chunk[np.asarray(pending.rows) - first] = values
        array[first : first + unit_rows] = chunk[: len(existing)]
        path = chunk_path(self.folder, spec, pending.unit)
        for written in (path, *path.parents[: len(spec.row_shape) + 1]):
            fsync(written)
        return f"{google_crc32c.value(chunk.tobytes()):08x}"

    def _array(self, spec: ArraySpec) -> zarr.Array[Any]:
        array = self._group[spec.name]
        if not isinstance(array, zarr.Array):
            raise CacheError(f"{self.folder / FEATURES / spec.name} is no array")
        return array


@contextmanager
def open_writer(
    folder: Path,
    *,
    dataset: str,
    identity: dict[str, Any],
    layout: Layout,
    head_start: Mapping[str, Tensor],
) -> Iterator[CacheWriter]:
    """Open a cache folder for writing, making it where it does not exist.

    Args:
        folder: ``ROOT/<dataset>-<id12>``.
        dataset: name of the data set.
        identity: the extraction identity; the folder belongs to it alone.
        layout: shapes of the arrays.
        head_start: tensors that heads start from.

    Raises:
        CacheError: another process writes, or the folder has another format.
        FingerprintMismatch: the folder belongs to another extraction.
    """
    with exclusive(folder / LOCK):
        _sweep(folder)
        group = _open_group(folder, dataset=dataset, identity=identity, layout=layout)
        if not (folder / HEAD_START).exists():
            with replacing(folder / HEAD_START) as partial:
                save_file(dict(head_start), partial)
        tables = read_rows(folder, journal.read(folder / JOURNAL))
        try:
            yield CacheWriter(folder=folder, layout=layout, tables=tables, _group=group)
        finally:
            for table in tables.values():
                table.write(folder)


def chunk_path(folder: Path, spec: ArraySpec, unit: int) -> Path:
    """Return the file of a unit's chunk: one chunk spans all trailing dimensions."""
    return (folder / FEATURES / spec.name / "c" / str(unit)).joinpath(
        *("0" for _ in spec.row_shape)
    )


def thumbnail_path(folder: Path, row: int) -> Path:
    """Return the file of a row's thumbnail."""
    return folder / THUMBNAILS / f"{row:07d}.jpg"


def _sweep(folder: Path) -> None:
    for leftover in folder.rglob(f"*{PARTIAL_SUFFIX}"):
        leftover.unlink()


def _open_group(
    folder: Path, *, dataset: str, identity: dict[str, Any], layout: Layout
) -> zarr.Group:
    group = zarr.open_group(folder / FEATURES, mode="a", zarr_format=3)
    if "format_version" not in group.attrs:  # new, or its creation was interrupted
        for kind in KINDS:
            for spec in layout.arrays(kind):
                _create_array(group, spec, layout.unit_rows(kind))
        group.update_attributes(
            {
                "dataset": dataset,
                "identity": identity,
                "extraction_id": canonical_digest(identity),
                "encoder_id": canonical_digest(identity["encoder"]),
                "layout": layout.to_json(),
                "format_version": FORMAT_VERSION,
            }
        )
    attributes = dict(group.attrs)
    check_format(attributes, folder)
    if attributes["extraction_id"] != canonical_digest(identity):
        raise FingerprintMismatch(
            f"{folder} holds another extraction ({str(attributes['extraction_id'])[:12]}, not "
            f"{canonical_digest(identity)[:12]}); move it away"
        )
    return group


def _create_array(group: zarr.Group, spec: ArraySpec, unit_rows: int) -> None:
    # Raw little-endian blocks: a chunk file can be memory-mapped and checked as it lies there.
    group.create_array(
        spec.name,
        shape=(0, *spec.row_shape),
        chunks=(unit_rows, *spec.row_shape),
        dtype=spec.dtype,
        fill_value=spec.fill,
        compressors=None,
        filters=None,
        config={"write_empty_chunks": True},
        overwrite=True,
    )
