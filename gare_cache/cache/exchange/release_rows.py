"""Rows of a release as the cache takes them: all-zero rows masked, tokens pooled, seconds added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache.exchange.files import Array, FeatureFile, StoredArray
from gare_cache.cache.exchange.tables import TIMES, is_bfloat16
from gare_cache.errors import ConfigError, FeatureFileError, counted

POOLS = ("mean", "eot")
_BLOCK_BYTES = 4 * 2**20


def masked_videos(
    raw: FeatureFile, seconds_per_row: float | None, say: Callable[[str], None]
) -> dict[str, StoredArray]:
    """Return videos without rows that are all zero, with the seconds of the rows that are left.

    Args:
        raw: the videos.
        seconds_per_row: row i is at i times this many seconds; None adds no seconds.
        say: called with the number of rows left out.

    Raises:
        FeatureFileError: rows cannot be read.
    """
    arrays: dict[str, StoredArray] = {}
    masked: dict[str, int] = {}
    for name, array in raw.arrays.items():
        arrays[name] = array
        if len(array.shape) != 2 or not _is_float(array.dtype):
            continue  # refused, by its name, with the other checks of shape and type
        kept = np.flatnonzero(_nonzero(raw, name))
        if len(kept) < array.shape[0]:
            masked[name] = array.shape[0] - len(kept)
            arrays[name] = _rows_of(array, kept)
        if seconds_per_row is not None:
            seconds = kept * seconds_per_row
            arrays[f"{TIMES}/{name.removeprefix('video/')}"] = in_memory(seconds)
    if masked:
        say(
            f"warning: {counted(sum(masked.values()), 'row')} of {counted(len(masked), 'video')} "
            f"in {raw.path}, all zero, left out (first: "
            f"{next(iter(masked)).removeprefix('video/')!r})"
        )
    return arrays


def _nonzero(raw: FeatureFile, name: str) -> npt.NDArray[np.bool_]:
    """Return which of an array's (T, D) rows have a value that is not zero."""
    shape, dtype = raw.arrays[name].shape, raw.arrays[name].dtype
    step = max(1, _BLOCK_BYTES // max(1, shape[1] * dtype.itemsize))
    found = np.zeros(shape[0], dtype=bool)
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        found[start:stop] = wide(raw.rows(name, start, stop)).any(axis=1)
    return found


def _rows_of(array: StoredArray, kept: npt.NDArray[np.int64]) -> StoredArray:
    def read(start: int, stop: int) -> Array:
        rows = kept[start:stop]
        if not len(rows):
            return np.empty((0, *array.shape[1:]), array.dtype)
        between = array.read(int(rows[0]), int(rows[-1]) + 1)
        chosen: Array = between[rows - rows[0]]
        return chosen

    return StoredArray((len(kept), *array.shape[1:]), array.dtype, read)


def in_memory(values: Array) -> StoredArray:
    """Return an array that is held in memory."""
    whole = values.ndim == 0
    return StoredArray(
        values.shape, values.dtype, lambda start, stop: values if whole else values[start:stop]
    )


def pooled_captions(raw: FeatureFile, pool: str | None) -> dict[str, StoredArray]:
    """Return captions, those of (L, D) token features pooled when they are read.

    Args:
        raw: the captions.
        pool: ``mean`` or ``eot``, the last row; None refuses token features.

    Raises:
        FeatureFileError: there are token features, and no pooling is named.
        ConfigError: a pooling is named, and there are none.
    """
    tokens = [name for name, array in raw.arrays.items() if len(array.shape) == 2]
    if tokens and pool is None:
        raise FeatureFileError(
            f"{raw.path}: {tokens[0]!r} has shape {raw.arrays[tokens[0]].shape}: features of "
            "tokens, which need not lie in the space of the videos; name the pooled feature with "
            "--caption-key, or a pooling with --pool mean|eot"
        )
    if pool is not None and not tokens:
        raise ConfigError(f"--pool has no effect: {raw.path} holds no (L, D) token features")
    pooled = {name: _pooled_array(raw, name, pool) for name in tokens if pool is not None}
    return {**raw.arrays, **pooled}


def _pooled_array(raw: FeatureFile, name: str, pool: str) -> StoredArray:
    array = raw.arrays[name]

    def read(start: int, stop: int) -> Array:
        rows = array.read(0, array.shape[0])
        rows = rows[wide(rows).any(axis=1)]  # all-zero rows are padding
        if not len(rows):
            return np.zeros(array.shape[1], dtype="<f4")[start:stop]
        vector: Array = rows[-1] if pool == "eot" else wide(rows).mean(axis=0, dtype="<f8")
        return vector[start:stop]

    mean = pool == "mean" and _is_float(array.dtype)
    return StoredArray(array.shape[1:], np.dtype("<f8") if mean else array.dtype, read)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or is_bfloat16(dtype)


def wide(rows: Array) -> Array:
    """Return bfloat16 as float32, and others as they are."""
    if not is_bfloat16(rows.dtype):
        return rows
    return (np.ascontiguousarray(rows).view("<u2").astype("<u4") << 16).view("<f4")
