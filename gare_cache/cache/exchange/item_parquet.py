"""Features in Parquet files, as data sets of Hugging Face keep them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gare_cache.cache.exchange.files import Array, StoredArray
from gare_cache.errors import FeatureFileError, counted
from gare_cache.files import column_chunks
from gare_cache.limits import TABLE_BYTES

ID_COLUMN = "id"
FEATURES_COLUMN = "features"
_SHOWN = 5
_DAMAGE = (pa.ArrowException, OSError, ValueError)


@dataclass(frozen=True)
class ParquetGroup:
    """A row group of a file."""

    file: Path
    number: int


Lists = Callable[[ParquetGroup, str], list[Array]]


@contextmanager
def huggingface(path: Path, key: str | None) -> Iterator[dict[str, StoredArray]]:
    """Yield the features of each row of the Parquet files below a folder, by the column ``id``.

    Args:
        path: the folder of a configuration, or one file.
        key: column of lists (D,) or lists of lists (T, D); None is ``features``.

    Raises:
        FeatureFileError: a file is faulty, or an id occurs twice.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        raise FeatureFileError(f"{path} is not a folder of Parquet files")
    name = FEATURES_COLUMN if key is None else key
    lists = lists_reader(held=1)
    items: dict[str, StoredArray] = {}
    dim = 0
    for group in row_groups(files):
        arrays = list_arrays(lists, group, name)
        dim = dim or max(array.shape[-1] for array in arrays)
        for id_, array in zip(group_ids(group), arrays, strict=True):
            if id_ in items:
                raise FeatureFileError(f"{group.file} holds the id {id_!r} twice, or another file")
            items[id_] = array
    # A list without rows does not say how wide they are.
    yield {id_: with_width(array, dim) for id_, array in items.items()}


def row_groups(files: Sequence[Path]) -> Iterator[ParquetGroup]:
    """Yield the row groups of Parquet files that have rows.

    Raises:
        FeatureFileError: a file is not Parquet, or has no ids.
        LimitExceeded: a row group is larger than ``TABLE_BYTES`` once decoded.
    """
    for path in files:
        with _opened(path) as file:
            _require(path, file, ID_COLUMN)
            metadata = file.metadata
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            for number, group in enumerate(groups):
                TABLE_BYTES.check(f"{path}, row group {number}", group.total_byte_size)
            for number, chunks in enumerate(column_chunks(path)):
                values = sum(chunk.num_values for chunk in chunks)
                TABLE_BYTES.check(f"{path}, row group {number}", 8 * values)
            sizes = [group.num_rows for group in groups]
        yield from (ParquetGroup(path, number) for number, rows in enumerate(sizes) if rows)


def group_ids(group: ParquetGroup) -> list[str]:
    """Return the ids of a row group.

    Raises:
        FeatureFileError: they are not strings, or one is missing or occurs twice.
    """
    with _opened(group.file, read_dictionary=[ID_COLUMN]) as file:
        column = _column(group, file, ID_COLUMN)
    if pa.types.is_dictionary(column.type) and pa.types.is_string(column.type.value_type):
        # Still a dictionary, in which an id of any length that is repeated stays small.
        if not column.null_count and len(pc.unique(column)) == len(column):
            ids: list[str] = column.to_pylist()
            return ids
        raise FeatureFileError(f"{group.file}: an {ID_COLUMN!r} is missing or occurs twice")
    raise FeatureFileError(f"{group.file}: the column {ID_COLUMN!r} does not hold strings")


def plain_column(group: ParquetGroup, name: str) -> Array:
    """Return a column of numbers.

    Raises:
        FeatureFileError: it is missing, or a number is.
    """
    with _opened(group.file) as file:
        column = _column(group, file, name)
    if column.null_count or not pa.types.is_integer(column.type):
        raise FeatureFileError(f"{group.file}: the column {name!r} must hold whole numbers")
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def lists_reader(*, held: int) -> Lists:
    """Return a function that reads a column of a row group and keeps the last ones that it read."""
    return lru_cache(maxsize=held)(_lists)


def list_arrays(lists: Lists, group: ParquetGroup, name: str) -> list[StoredArray]:
    """Return the lists of a column as arrays; the row group is read again when rows are.

    Args:
        lists: made by ``lists_reader``.
        group: the row group.
        name: the column.

    Raises:
        FeatureFileError: the column does not hold lists of numbers, or lists of vectors of
            different widths.
    """
    return [
        StoredArray(array.shape, array.dtype, _reader(lists, group, name, at))
        for at, array in enumerate(lists(group, name))
    ]


def with_width(array: StoredArray, dim: int) -> StoredArray:
    """Return an array; one of no rows takes the width given."""
    if len(array.shape) != 2 or array.shape[0]:
        return array
    return StoredArray((0, dim), array.dtype, lambda start, stop: np.empty((0, dim), array.dtype))


def _reader(lists: Lists, group: ParquetGroup, name: str, at: int) -> Callable[[int, int], Array]:
    def read(start: int, stop: int) -> Array:
        return lists(group, name)[at][start:stop]

    return read


def _lists(group: ParquetGroup, name: str) -> list[Array]:
    with _opened(group.file) as file:
        column = _column(group, file, name)
    try:
        return _as_arrays(column)
    except _DAMAGE as err:
        raise FeatureFileError(
            f"{group.file}, row group {group.number}: the column {name!r} must hold lists of "
            f"numbers, or of vectors of one width ({' '.join(str(err).split())})"
        ) from err


def _as_arrays(column: pa.Array) -> list[Array]:
    counts, values = _flat(column)
    shape: tuple[int, ...] = (-1,)
    if _is_list(values.type):
        widths, values = _flat(values)
        if len(widths) and widths.min() != widths.max():
            raise ValueError(f"widths {widths.min()} and {widths.max()}")
        shape = (len(widths), int(widths[0]) if len(widths) else 0)
    if values.null_count or not (
        pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
    ):
        raise ValueError(f"{values.type}, {values.null_count} missing")
    matrix = values.to_numpy(zero_copy_only=False).reshape(shape)
    ends = np.cumsum(counts)
    return [matrix[end - n : end] for end, n in zip(ends.tolist(), counts.tolist(), strict=True)]


def _flat(lists: pa.Array) -> tuple[Array, pa.Array]:
    if not _is_list(lists.type) or lists.null_count:
        raise ValueError(f"{lists.type}, {lists.null_count} missing")
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    return counts.astype(np.int64), pc.list_flatten(lists)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _require(path: Path, file: pq.ParquetFile, name: str) -> None:
    names = file.schema_arrow.names
    if name not in names:
        raise FeatureFileError(
            f"{path} has no column {name!r} (found: {', '.join(names[:_SHOWN])})"
        )


def _column(group: ParquetGroup, file: pq.ParquetFile, name: str) -> pa.Array:
    _require(group.file, file, name)
    table = file.read_row_group(group.number, columns=[name])
    table.validate(full=True)
    announced = file.metadata.row_group(group.number).num_rows
    if len(table) != announced:  # where the header of a page is damaged
        raise FeatureFileError(
            f"{group.file}, row group {group.number}: {len(table):,} values of {name!r} for "
            f"{counted(announced, 'row')}; the file is damaged: write it again"
        )
    return table.column(0).combine_chunks()


@contextmanager
def _opened(path: Path, **options: Any) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, **options) as file:
            yield file
    except _DAMAGE as err:
        if isinstance(err, FeatureFileError):
            raise
        raise FeatureFileError(
            f"{path} cannot be read as Parquet ({' '.join(str(err).split())})"
        ) from err
