"""Chunk files: raw little-endian blocks, written atomically and checked in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gare_cache.cache.schema import FEATURES, ArraySpec
from gare_cache.errors import CacheError
from gare_cache.files import fsync, replacing

DROP_COMMAND = "gare-cache verify --drop-damaged"
_READ_BYTES = 2**15  # up to here, reading a chunk is faster than mapping it


def chunk_path(folder: Path, spec: ArraySpec, unit: int) -> Path:
    """Return the path of a unit's chunk; a chunk spans all trailing dimensions."""
    return folder / FEATURES / _chunk_name(spec, unit)


def checksum(chunk: npt.NDArray[Any]) -> str:
    """Return the CRC-32C (hex) of a chunk's bytes."""
    flat = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
    # The C implementation reads an array in place, the one in Python takes bytes alone.
    content = flat if google_crc32c.implementation == "c" else flat.tobytes()
    return f"{google_crc32c.value(content):08x}"


def write_chunk(folder: Path, spec: ArraySpec, unit: int, chunk: npt.NDArray[Any]) -> None:
    """Write a whole chunk: to a new file, flushed and renamed; then flush its folders."""
    path = chunk_path(folder, spec, unit)
    with replacing(path) as partial:
        partial.write_bytes(chunk.tobytes())
    for parent in path.parents[1 : len(spec.row_shape) + 2]:
        fsync(parent)


def read_chunk(folder: Path, spec: ArraySpec, unit: int, *, unit_rows: int) -> npt.NDArray[Any]:
    """Read a whole chunk.

    Args:
        folder: the cache folder.
        spec: the array.
        unit: number of the chunk.
        unit_rows: rows per chunk.

    Returns:
        (unit_rows, ...) values, including rows beyond the array's end.

    Raises:
        CacheError: the file is missing or has the wrong size.
    """
    return np.array(map_chunk(folder, spec, unit, unit_rows=unit_rows))


def map_chunk(folder: Path, spec: ArraySpec, unit: int, *, unit_rows: int) -> npt.NDArray[Any]:
    """Memory-map a whole chunk, which cannot be written; otherwise as ``read_chunk``."""
    fault = size_fault(folder, spec, unit, unit_rows=unit_rows)
    if fault is not None:
        raise CacheError(f"{folder / FEATURES}: {fault}; run `{DROP_COMMAND}`")
    values = mapped(f"{folder}/{FEATURES}/{_chunk_name(spec, unit)}", spec.dtype)
    return values.reshape(unit_rows, *spec.row_shape)


def mapped(path: Path | str, dtype: str) -> npt.NDArray[Any]:
    """Memory-map a file that has content, to be read; a small one is read.

    The file does not stay open, unlike those of ``numpy.memmap``, of which a process may have
    1,024 on most systems.
    """
    with pa.memory_map(str(path)) as file:
        few = file.size() <= _READ_BYTES
        return np.frombuffer(file.read() if few else file.read_buffer(), dtype)


def keep_done_rows(
    chunk: npt.NDArray[Any], spec: ArraySpec, done: Sequence[int]
) -> npt.NDArray[Any]:
    """Return a copy of a chunk whose rows outside ``done`` hold the fill value."""
    kept = spec.empty(len(chunk))
    kept[list(done)] = chunk[list(done)]
    return kept


def is_as_written(
    chunk: npt.NDArray[Any],
    spec: ArraySpec,
    expected: str | None,
    done: Callable[[], Sequence[int]],
) -> bool:
    """Return whether a chunk has its checksum, by itself or without its unfinished rows.

    Args:
        chunk: the whole chunk.
        spec: its array.
        expected: the journal's checksum.
        done: returns the finished rows, counted from the chunk's first.
    """
    return checksum(chunk) == expected or checksum(keep_done_rows(chunk, spec, done())) == expected


def size_fault(folder: Path, spec: ArraySpec, unit: int, *, unit_rows: int) -> str | None:
    """Say what is wrong with the size of a chunk's file; None if it is right."""
    name = _chunk_name(spec, unit)
    expected = unit_rows * spec.row_bytes
    try:
        size = os.stat(f"{folder}/{FEATURES}/{name}").st_size  # a Path takes longer than the call
    except FileNotFoundError:
        return f"chunk {name} is missing, though the journal has it"
    if size != expected:
        return f"chunk {name} has {size:,} bytes instead of {expected:,}"
    return None


def _chunk_name(spec: ArraySpec, unit: int) -> str:
    return f"{spec.name}/c/{unit}" + "/0" * len(spec.row_shape)
