"""Word tokens of captions: one ragged array per unit, in row order.

``text/lengths`` holds the number of tokens of each row. At any moment the tokens on disk are either
those of the done rows or those of all rows that have a length, and their number tells which: the
lengths of a unit are written before its tokens, and tokens that a killed writer left beyond the
done rows are removed before the lengths are written again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache.chunks import DROP_COMMAND, checksum, mapped, read_chunk, size_fault
from gare_cache.cache.rows import RowTable
from gare_cache.cache.schema import FEATURES, LENGTHS, WORDS, ArraySpec, Layout
from gare_cache.errors import CacheError
from gare_cache.files import fsync, read_json, replacing

Tokens = npt.NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class UnitWords:
    """Word tokens of a unit, as stored.

    Attributes:
        of_row: done row -> (L, D) float16, memory-mapped.
        exact: False if rows that are not done hold tokens too.
    """

    of_row: Mapping[int, Tokens]
    exact: bool

    def checksum(self) -> str:
        """Return the CRC-32C (hex) of the concatenated tokens of the done rows."""
        return checksum(joined(self.of_row.values()))


def joined(tokens: Iterable[Tokens]) -> Tokens:
    """Concatenate the tokens of several captions into one flat array of sum(L) x D values."""
    return np.concatenate([np.empty(0, "<f2"), *(t.ravel() for t in tokens)]).astype("<f2")


def write_unit_words(folder: Path, unit: int, tokens: Mapping[int, Tokens], *, dim: int) -> str:
    """Write the tokens of a unit: the chunk, then the array's metadata, both flushed to disk.

    Args:
        folder: the cache folder; the unit's lengths must be written already.
        unit: number of the unit.
        tokens: row -> (L, D), for all rows that have tokens.
        dim: width D.

    Returns:
        The CRC-32C (hex) of the chunk.
    """
    content = joined(tokens[row] for row in sorted(tokens))
    path = words_path(folder, unit)
    with replacing(path) as partial:
        partial.write_bytes(content.tobytes())
    metadata = path.parents[2] / "zarr.json"
    with replacing(metadata) as partial:
        partial.write_bytes(_metadata((content.size // dim, dim)))
    for parent in (path.parents[1], path.parents[3]):
        fsync(parent)
    return checksum(content)


def read_unit_words(folder: Path, layout: Layout, table: RowTable, unit: int) -> UnitWords:
    """Memory-map the tokens of a unit's done rows.

    Raises:
        CacheError: the file is missing, or its size fits neither the done rows nor all rows that
            have a length.
    """
    lengths = _lengths(folder, layout, table, unit)
    fault = words_fault(folder, layout, table, unit)
    if fault is not None:
        raise CacheError(f"{folder / FEATURES}: {fault}; run `{DROP_COMMAND}`")
    done = {row: lengths[row] for row in table.done_rows(unit)}
    path = words_path(folder, unit)
    exact = path.stat().st_size == sum(done.values()) * layout.dim * 2
    stored = done if exact else lengths
    if not sum(stored.values()):
        return UnitWords({}, exact)
    values = mapped(path, "<f2").reshape(-1, layout.dim)
    ends = np.cumsum(list(stored.values()))
    rows = {
        row: values[end - length : end]
        for (row, length), end in zip(stored.items(), ends, strict=True)
        if row in done and length
    }
    return UnitWords(rows, exact)


def words_fault(folder: Path, layout: Layout, table: RowTable, unit: int) -> str | None:
    """Say what is wrong with the size of a unit's token file; None if it is right."""
    lengths = _lengths(folder, layout, table, unit)
    path = words_path(folder, unit)
    name = path.relative_to(folder / FEATURES)
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f"chunk {name} is missing, though the journal has it"
    done = sum(lengths[row] for row in table.done_rows(unit)) * layout.dim * 2
    if size not in (done, sum(lengths.values()) * layout.dim * 2):
        return f"chunk {name} has {size:,} bytes instead of {done:,}"
    return None


def words_metadata_fault(folder: Path, layout: Layout, table: RowTable, unit: int) -> str | None:
    """Say what is wrong with the metadata of a unit's tokens; None if they are as written.

    A writer that was killed between the tokens and their metadata leaves those of the done rows.
    """
    path = words_path(folder, unit)
    try:
        stored = read_json(path.parents[2] / "zarr.json")
        tokens = path.stat().st_size // (2 * layout.dim)
    except FileNotFoundError:
        return "it is missing"
    except (ValueError, RecursionError):
        return "it is not the metadata of an array"
    lengths = _lengths(folder, layout, table, unit)
    done = sum(lengths[row] for row in table.done_rows(unit))
    expected = [json.loads(_metadata((number, layout.dim))) for number in (tokens, done)]
    return None if stored in expected else "it is not as written"


def words_path(folder: Path, unit: int) -> Path:
    """Return the path of a unit's tokens, the only chunk of their array."""
    return folder / FEATURES / WORDS / str(unit) / "c" / "0" / "0"


def _lengths(folder: Path, layout: Layout, table: RowTable, unit: int) -> dict[int, int]:
    spec = lengths_spec(layout)
    if size_fault(folder, spec, unit, unit_rows=table.unit_rows) is not None:
        return dict.fromkeys(table.done_rows(unit), 0)  # the lengths' own fault is reported
    values = read_chunk(folder, spec, unit, unit_rows=table.unit_rows)
    first = unit * table.unit_rows
    return {first + place: int(length) for place, length in enumerate(values)}


def lengths_spec(layout: Layout) -> ArraySpec:
    """Return the array of lengths."""
    return next(spec for spec in layout.arrays("text") if spec.name == LENGTHS)


def _metadata(shape: tuple[int, int]) -> bytes:
    # Imported late: reading needs no zarr.
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    array: zarr.Array[Any] = zarr.create_array(
        MemoryStore(),
        shape=shape,
        chunks=shape,
        dtype="<f2",
        fill_value=float("nan"),
        compressors=None,
        filters=None,
        zarr_format=3,
    )
    return array.metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes()
