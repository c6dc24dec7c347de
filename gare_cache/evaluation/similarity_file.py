"""Readers of similarity matrices and lists of ids saved by other programs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gare_cache.errors import GareCacheError, LimitExceeded, UnreadableFile, counted
from gare_cache.evaluation.metrics import Scores
from gare_cache.limits import read_npy, read_text

_SHOWN = 3


class SimilarityFileError(GareCacheError, ValueError):
    """A similarity matrix, or a list that belongs to it, cannot be read."""


def read_similarity(path: Path) -> npt.NDArray[np.generic]:
    """Read a two-dimensional array of numbers in the dtype in which it was saved.

    Raises:
        SimilarityFileError: not an npy file, pickled objects, another shape, or not numbers.
    """
    array = _read_npy(path)
    if array.ndim != 2 or 0 in array.shape:
        raise SimilarityFileError(
            f"{path} has shape {array.shape}; a similarity is (T, V), one row per text and one "
            "column per video"
        )
    if array.dtype.kind not in "fiu":
        raise SimilarityFileError(
            f"{path} holds {array.dtype}; a similarity holds floats or integers"
        )
    return array


def as_scores(similarity: npt.NDArray[np.generic]) -> Scores:
    """Convert values to floats without changing their order: float16 to float32, integers to 64.

    Raises:
        SimilarityFileError: integers beyond 2^53, which float64 cannot tell apart.
    """
    if similarity.dtype == np.float16:
        return similarity.astype(np.float32)
    if similarity.dtype.kind == "f":
        return similarity  # type: ignore[return-value]
    if max(abs(int(similarity.max())), abs(int(similarity.min()))) > 2**53:
        raise SimilarityFileError(
            f"{similarity.dtype} values beyond 2^53 cannot be ranked exactly; save them as floats"
        )
    return similarity.astype(np.float64)


def read_video_of_text(
    path: Path, video_ids: Sequence[str] | None, *, num_texts: int, num_videos: int
) -> npt.NDArray[np.int64]:
    """Read the video of each text, given as a column index from 0 or as an id.

    Args:
        path: one value per text; npy (integers or strings), or a text file with one value per line.
        video_ids: ids of the columns; None if the file holds indices.
        num_texts: rows of the matrix.
        num_videos: columns of the matrix.

    Returns:
        (T,) column of each text's video.

    Raises:
        SimilarityFileError: wrong length, an id that no column has, or an index out of range.
    """
    values = read_column(path, num_texts, "texts")
    if video_ids is not None:
        column_of_id = {video_id: column for column, video_id in enumerate(video_ids)}
        absent = [value not in column_of_id for value in values]
        _refuse(path, values, absent, "not among the ids of the columns")
        return np.array([column_of_id[value] for value in values], dtype=np.int64)
    not_whole = [not (value.isascii() and value.isdigit()) for value in values]
    remedy = "not a column index; name the columns with --video-ids if these are ids"
    _refuse(path, values, not_whole, remedy)
    indices = [int(value) for value in values]
    outside = [index >= num_videos for index in indices]
    _refuse(path, values, outside, f"beyond the last column, {num_videos - 1} (counted from 0)")
    return np.array(indices, dtype=np.int64)


def read_video_ids(path: Path, num_videos: int) -> list[str]:
    """Read the ids of the columns.

    Raises:
        SimilarityFileError: not as many ids as columns, or a repeated id.
    """
    ids = read_column(path, num_videos, "videos")
    first = {value: number for number, value in reversed(list(enumerate(ids)))}
    repeated = [first[value] != number for number, value in enumerate(ids)]
    _refuse(path, ids, repeated, "repeated")
    return ids


def read_column(path: Path, expected: int, kind: str) -> list[str]:
    """Read one value per item, as strings.

    Args:
        path: ``.npy`` of integers or strings; ``.csv`` of one column; else one value per line.
        expected: the number of values required.
        kind: what the values are, for the message.

    Raises:
        SimilarityFileError: wrong number of values, wrong format, or an empty value.
    """
    values = _npy_column(path) if path.suffix == ".npy" else _text_column(path)
    if len(values) != expected:
        hint = "; is the first line a heading?" if len(values) == expected + 1 else ""
        raise SimilarityFileError(
            f"{path} has {counted(len(values), 'value')}, the matrix has {expected:,} {kind}{hint}"
        )
    _refuse(path, values, [not value for value in values], "empty")
    return values


def _read_npy(path: Path) -> npt.NDArray[np.generic]:
    _require_file(path)
    try:
        return read_npy(path)
    except (ValueError, EOFError) as err:
        raise SimilarityFileError(
            f"{path} is not an npy file of plain numbers or strings ({err}); save the array "
            "with numpy.save, without objects"
        ) from err


def _npy_column(path: Path) -> list[str]:
    array = _read_npy(path)
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise SimilarityFileError(
            f"{path} holds {array.dtype} of shape {array.shape}; it must be one-dimensional, with "
            "one integer or string per item"
        )
    return [str(value) for value in array.tolist()]


def _text_column(path: Path) -> list[str]:
    _require_file(path)
    try:
        lines = read_text(path).split("\n")
    except LimitExceeded:
        raise
    except UnreadableFile as err:
        raise SimilarityFileError(str(err)) from err
    while lines and not lines[-1].strip():
        lines.pop()
    if path.suffix != ".csv":
        return [line.strip() for line in lines]
    rows = list(csv.reader(lines))
    wide = [len(row) > 1 for row in rows]
    _refuse(path, [",".join(row) for row in rows], wide, "more than one column wide")
    return [row[0].strip() if row else "" for row in rows]


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise SimilarityFileError(f"{path} is not a file")


def _refuse(path: Path, values: Sequence[str], faulty: Sequence[bool], what: str) -> None:
    entries = [(number, value) for number, value in enumerate(values) if faulty[number]]
    if entries:
        shown = ", ".join(f"{value!r} (entry {number})" for number, value in entries[:_SHOWN])
        raise SimilarityFileError(
            f"{path}: {len(entries):,} of {len(values):,} values are {what}: {shown}"
            + (", ..." if len(entries) > _SHOWN else "")
        )
