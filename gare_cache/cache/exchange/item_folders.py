"""Releases in folders: one npz or npy file an item, and BigFile."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gare_cache.cache.exchange.files import Array, StoredArray, mapped_npy, open_feature_file
from gare_cache.errors import FeatureFileError, counted
from gare_cache.limits import read_text


def _files(path: Path, suffix: str) -> dict[str, Path]:
    if not path.is_dir():
        raise FeatureFileError(f"{path} is not a folder of {suffix} files")
    return {
        file.relative_to(path).as_posix().removesuffix(suffix): file
        for file in sorted(path.rglob(f"*{suffix}"))
    }


@contextmanager
def npz_per_item(path: Path, key: str | None) -> Iterator[dict[str, StoredArray]]:
    """Yield the array ``key``, or the only one, of each ``ID.npz``.

    Raises:
        FeatureFileError: it is faulty, or holds no such array.
    """
    yield {id_: npz_array(file, key) for id_, file in _files(path, ".npz").items()}


def npz_array(path: Path, key: str | None) -> StoredArray:
    """Return the array ``key``, or the only one, of an npz file.

    Raises:
        FeatureFileError: it is faulty, or holds no such array.
    """
    with open_feature_file(path) as file:
        if key is None and len(file.arrays) != 1:
            raise FeatureFileError(
                f"{path} holds {len(file.arrays)} arrays ({', '.join(file.arrays)}); name one "
                "with --video-key or --caption-key"
            )
        name = next(iter(file.arrays)) if key is None else key
        if name not in file.arrays:
            raise FeatureFileError(
                f"{path} holds no array {name!r} (found: {', '.join(file.arrays) or 'nothing'})"
            )
        shape, dtype = file.arrays[name].shape, file.arrays[name].dtype

    def read(start: int, stop: int) -> Array:
        # Opened at each read: a release has more files than a process may hold open.
        with open_feature_file(path) as file:
            return file.arrays[name].read(start, stop)

    return StoredArray(shape, dtype, read)


@contextmanager
def npy_per_item(path: Path, _key: str | None) -> Iterator[dict[str, StoredArray]]:
    """Yield the array of each ``ID.npy``.

    Raises:
        FeatureFileError: it is faulty, or holds no such array.
    """
    yield {id_: mapped_npy(file) for id_, file in _files(path, ".npy").items()}


@contextmanager
def bigfile(path: Path, _key: str | None) -> Iterator[dict[str, StoredArray]]:
    """``feature.bin`` of float32 rows, ``shape.txt``, ``id.txt``; videos have a dict of rows."""
    shape = _words(path / "shape.txt")
    if len(shape) != 2 or not all(word.isdecimal() for word in shape):
        raise FeatureFileError(f"{path / 'shape.txt'} must hold two numbers: rows and width")
    num, dim = int(shape[0]), int(shape[1])
    names = _words(path / "id.txt")
    if len(names) != num or len(set(names)) < num:
        raise FeatureFileError(
            f"{path / 'id.txt'} holds {len(set(names)):,} different ids of {len(names):,}, "
            f"shape.txt {counted(num, 'row')}"
        )
    values = path / "feature.bin"
    size = values.stat().st_size if values.is_file() else 0
    if not dim or size != num * dim * 4:
        raise FeatureFileError(
            f"{values} holds {size:,} bytes; {counted(num, 'row')} of {dim:,} float32 values take "
            f"{num * dim * 4:,}"
        )
    row_of = {name: row for row, name in enumerate(names)}
    listing = path / "video2frames.txt"
    if not listing.exists():
        yield {
            name: StoredArray((dim,), np.dtype("<f4"), _vector_reader(values, row, dim))
            for name, row in row_of.items()
        }
        return
    items = {}
    for video, frames in _frame_lists(listing).items():
        unknown = [frame for frame in frames if frame not in row_of]
        if unknown:
            raise FeatureFileError(f"{listing}: {unknown[0]!r} of {video!r} is not in id.txt")
        rows = np.array([row_of[frame] for frame in frames], dtype=np.int64)
        items[video] = StoredArray(
            (len(rows), dim), np.dtype("<f4"), _scattered_reader(values, rows, dim)
        )
    yield items


def _words(path: Path) -> list[str]:
    try:
        return read_text(path).split()
    except (OSError, UnicodeDecodeError) as err:
        raise FeatureFileError(f"{path} cannot be read: {err}") from err


def _frame_lists(path: Path) -> dict[str, list[str]]:
    try:
        held = ast.literal_eval(read_text(path).strip())
    except (OSError, ValueError, SyntaxError, MemoryError, RecursionError) as err:
        raise FeatureFileError(f"{path} is not the text of a dict: {err}") from err
    if not isinstance(held, dict) or not all(
        isinstance(video, str)
        and isinstance(frames, list)
        and all(isinstance(frame, str) for frame in frames)
        for video, frames in held.items()
    ):
        raise FeatureFileError(f"{path} must be a dict from videos to lists of ids of frames")
    return held


def _vector_reader(path: Path, row: int, dim: int) -> Callable[[int, int], Array]:
    def read(start: int, stop: int) -> Array:
        return np.array(np.memmap(path, dtype="<f4", mode="r").reshape(-1, dim)[row, start:stop])

    return read


def _scattered_reader(
    path: Path, rows: npt.NDArray[np.int64], dim: int
) -> Callable[[int, int], Array]:
    def read(start: int, stop: int) -> Array:
        return np.array(np.memmap(path, dtype="<f4", mode="r").reshape(-1, dim)[rows[start:stop]])

    return read
