"""Chunk files: raw little-endian blocks, replaced as a whole, flushed, checked where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from gare_cache.cache.schema import FEATURES, ArraySpec
from gare_cache.errors import CacheError
from gare_cache.files import fsync, replacing

DROP_COMMAND = "gare-cache verify --drop-damaged"


def chunk_path(folder: Path, spec: ArraySpec, unit: int) -> Path:
    """Return the file of a unit's chunk: one chunk spans all trailing dimensions."""
    return (folder / FEATURES / spec.name / "c" / str(unit)).joinpath(
        *("0" for _ in spec.row_shape)
    )


def checksum(chunk: npt.NDArray[Any]) -> str:
    """Return the CRC-32C (hex) of a chunk's bytes."""
    return f"{google_crc32c.value(chunk.tobytes()):08x}"


def write_chunk(folder: Path, spec: ArraySpec, unit: int, chunk: npt.NDArray[Any]) -> None:
    """Write a whole chunk: a new file, flushed, renamed; then its folders are flushed."""
    path = chunk_path(folder, spec, unit)
    with replacing(path) as partial:
        partial.write_bytes(chunk.tobytes())
    for parent in path.parents[1 : len(spec.row_shape) + 2]:
        fsync(parent)


def read_chunk(folder: Path, spec: ArraySpec, unit: int, *, unit_rows: int) -> npt.NDArray[Any]:
    """Read a whole chunk.

    Args:
        folder: of the cache.
        spec: the array.
        unit: number of the chunk.
        unit_rows: rows of a chunk.

    Returns:
        (unit_rows, ...) values, rows behind the array's end included.

    Raises:
        CacheError: the file is missing or of another size.
    """
    return np.array(map_chunk(folder, spec, unit, unit_rows=unit_rows))


def map_chunk(folder: Path, spec: ArraySpec, unit: int, *, unit_rows: int) -> npt.NDArray[Any]:
    """Map a whole chunk into memory, as ``read_chunk`` returns it but read when it is used."""
    fault = size_fault(folder, spec, unit, unit_rows=unit_rows)
    if fault is not None:
        raise CacheError(f"{folder / FEATURES}: {fault}; run `{DROP_COMMAND}`")
    shape = (unit_rows, *spec.row_shape)
    return np.memmap(chunk_path(folder, spec, unit), spec.dtype, "r", shape=shape)


def only_done(chunk: npt.NDArray[Any], spec: ArraySpec, done: Sequence[int]) -> npt.NDArray[Any]:
    """Return a chunk in which the places that are not ``done`` hold the fill value."""
    kept = spec.empty(len(chunk))
    kept[list(done)] = chunk[list(done)]
    return kept


def size_fault(folder: Path, spec: ArraySpec, unit: int, *, unit_rows: int) -> str | None:
    """Say why a chunk's file cannot be whole, judged by its size; None where it can."""
    path = chunk_path(folder, spec, unit)
    name = path.relative_to(folder / FEATURES)
    expected = unit_rows * spec.row_bytes
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return f"chunk {name} is missing, though the journal has it"
    if found != expected:
        return f"chunk {name} has {found:,} bytes instead of {expected:,}"
    return None
