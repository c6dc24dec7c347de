"""Feature files from elsewhere: named arrays, read by row range, never unpickled.

An HDF5 file, an npz archive and a folder of npy files share one interface: names with ``/`` between
their parts, each an array of which any range of rows can be read.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt

from gare_cache.errors import FeatureFileError, GareCacheError, LimitExceeded, UnreadableFile
from gare_cache.files import canonical_digest, file_digest, is_zip
from gare_cache.limits import check_expansion, parse_json, read_npy_header, read_text

Array = npt.NDArray[Any]

_NPY = ".npy"
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class StoredArray:
    """An array of a feature file: its header, and a function that reads rows.

    Attributes:
        shape: the whole shape; rows are the first axis.
        dtype: as stored.
        read: ``read(start, stop)`` returns those rows; for a scalar array, its value.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int, int], Array]


@dataclass(frozen=True)
class FeatureFile:
    """An open feature file; made by ``open_feature_file``.

    Attributes:
        path: the file or folder.
        arrays: name -> array.
        lists: lists of ids stored as text beside the arrays (``video_ids.txt``), by name.
        attributes: attributes of an HDF5 file; empty for other formats.
    """

    path: Path
    arrays: Mapping[str, StoredArray]
    lists: Mapping[str, list[str]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Read rows of an array.

        Raises:
            FeatureFileError: they cannot be read, or hold pickled objects.
        """
        try:
            return self.arrays[name].read(start, stop)
        except _UNREADABLE as err:
            raise FeatureFileError(
                f"{self.path}: rows {start} to {stop} of {name!r} cannot be read ({err}); the file "
                "is damaged, or needs a compression filter that is not installed"
            ) from err

    def whole(self, name: str) -> Array:
        """Read a whole array.

        Raises:
            FeatureFileError: as ``rows``.
        """
        shape = self.arrays[name].shape
        return self.rows(name, 0, shape[0] if shape else 1)

    def ids(self, name: str) -> list[str] | None:
        """Return the list of ids of that name; None if the file has no such list.

        Raises:
            FeatureFileError: it is not a list of strings.
        """
        if name not in self.arrays:
            return self.lists.get(name)
        if name in self.lists:
            raise FeatureFileError(f"{self.path} holds {name} twice, as text and as array")
        array = self.arrays[name]
        values = self.whole(name).tolist() if len(array.shape) == 1 else None
        if values is None or not all(isinstance(value, str | bytes) for value in values):
            raise FeatureFileError(
                f"{self.path}: {name} must be a list of strings, not {array.dtype} of shape "
                f"{array.shape}"
            )
        try:
            return [v.decode() if isinstance(v, bytes) else v for v in values]
        except UnicodeDecodeError as err:
            raise FeatureFileError(f"{self.path}: {name} is not UTF-8: {err}") from err


@contextmanager
def open_feature_file(path: Path) -> Iterator[FeatureFile]:
    """Open an HDF5 file, an npz archive or a folder of npy files; the content decides which.

    Raises:
        FeatureFileError: it has another format, is damaged, or holds pickled objects.
    """
    if not path.exists():
        raise FeatureFileError(f"{path} does not exist")
    with _opener(path)(path) as file:
        yield file


def feature_file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a feature file; of a folder, of its files' names and digests."""
    if path.is_file():
        return file_digest(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return canonical_digest([[str(f.relative_to(path)), file_digest(f)] for f in files])


def _opener(path: Path) -> Callable[[Path], AbstractContextManager[FeatureFile]]:
    if path.is_dir():
        return _open_folder
    if h5py.is_hdf5(path):
        return _open_hdf5
    if is_zip(path):
        return _open_npz
    hint = ""
    if path.suffix == _NPY:
        hint = "; give the folder that holds it together with its ids"
    raise FeatureFileError(
        f"{path} is neither an HDF5 file, nor an npz archive, nor a folder of npy files{hint} "
        "(layouts: docs/features.md)"
    )


@contextmanager
def _open_hdf5(path: Path) -> Iterator[FeatureFile]:
    try:
        file = h5py.File(path, "r")
    except OSError as err:
        raise FeatureFileError(
            f"{path} cannot be opened as HDF5 ({err}); it is damaged, or its writer was killed or "
            "is still at work"
        ) from err
    with file:
        arrays: dict[str, StoredArray] = {}

        def note(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset) and node.shape is not None:
                _check_dataset(path, name, node)
                arrays[name] = StoredArray(node.shape, node.dtype, _hdf5_reader(file, name))

        try:
            file.visititems(note)
            attributes = dict(file.attrs)
        except GareCacheError:
            raise
        except (*_UNREADABLE, KeyError, TypeError) as err:
            raise FeatureFileError(f"{path} is damaged ({err}); write it again") from err
        yield FeatureFile(path, arrays, attributes=attributes)


def _check_dataset(path: Path, name: str, node: h5py.Dataset) -> None:
    if node.external or node.is_virtual:
        raise FeatureFileError(
            f"{path}: {name!r} takes its values from other files, which are not opened; write them "
            "into one file"
        )
    check_expansion(f"{path}, {name}", node.id.get_storage_size(), node.nbytes)


def _hdf5_reader(file: h5py.File, name: str) -> Callable[[int, int], Array]:
    # Looked up at each read: 100,000 open dataset handles would fill the memory.
    def read(start: int, stop: int) -> Array:
        node = file[name]
        return np.asarray(node[start:stop] if node.shape else node[()])

    return read


@contextmanager
def _open_folder(path: Path) -> Iterator[FeatureFile]:
    lists: dict[str, list[str]] = {}
    for listing in sorted([*path.glob("*_ids.txt"), *path.glob("*_ids.json")]):
        if listing.stem in lists:
            raise FeatureFileError(f"{path} holds {listing.stem} twice, as txt and as json")
        lists[listing.stem] = _listed_ids(listing)
    yield FeatureFile(
        path,
        {
            file.relative_to(path).as_posix().removesuffix(_NPY): mapped_npy(file)
            for file in sorted(path.rglob(f"*{_NPY}"))
        },
        lists,
    )


def _listed_ids(path: Path) -> list[str]:
    try:
        text = read_text(path)
        if path.suffix == ".txt":
            return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
        ids = parse_json(path, text)
    except LimitExceeded:
        raise
    except ValueError as err:
        raise FeatureFileError(f"{path} cannot be read: {err}") from err
    if not isinstance(ids, list) or not all(isinstance(id_, str) for id_ in ids):
        raise FeatureFileError(f"{path} must be a JSON list of strings")
    return ids


def mapped_npy(path: Path) -> StoredArray:
    """Return the array of an npy file, whose rows are mapped at each read.

    Raises:
        FeatureFileError: it is no npy file, is cut short, or holds pickled objects.
    """
    with path.open("rb") as file:
        shape, dtype, _ = _npy_header(file, path, path.stat().st_size)

    def read(start: int, stop: int) -> Array:
        if 0 in shape:  # an empty array cannot be mapped
            return np.empty((max(0, min(stop, shape[0]) - start), *shape[1:]), dtype)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.array(array[start:stop] if shape else array)

    return StoredArray(shape, dtype, read)


@contextmanager
def _open_npz(path: Path) -> Iterator[FeatureFile]:
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
        except _UNREADABLE as err:
            raise FeatureFileError(f"{path} cannot be opened as npz ({err})") from err
        members = [name for name in archive.namelist() if name.endswith(_NPY)]
        if len(set(members)) < len(members):
            raise FeatureFileError(f"{path} holds two arrays of the same name; write it again")
        for info in archive.infolist():
            check_expansion(f"{path}, {info.filename}", info.compress_size, info.file_size)
        streams = _MemberStreams(archive)
        stack.callback(streams.close)
        yield FeatureFile(
            path, {name.removesuffix(_NPY): _streamed(streams, name, path) for name in members}
        )


class _MemberStreams:
    """Keeps the last member read open, so that reading rows in order decompresses once."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._name: str | None = None
        self._stream: IO[bytes] | None = None

    def open(self, name: str) -> IO[bytes]:
        if self._stream is None or self._name != name:
            self.close()
            self._name, self._stream = name, self._archive.open(name)
        return self._stream

    def size(self, name: str) -> int:
        return self._archive.getinfo(name).file_size

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _streamed(streams: _MemberStreams, member: str, path: Path) -> StoredArray:
    where = f"{path}, {member}"
    try:
        stream = streams.open(member)
        shape, dtype, fortran = _npy_header(stream, where, streams.size(member))
        first = stream.tell()
    except GareCacheError:
        raise
    except _UNREADABLE as err:
        raise FeatureFileError(f"{where} cannot be read ({err})") from err
    if fortran and len(shape) > 1:
        raise FeatureFileError(
            f"{where} is in Fortran order, whose rows cannot be streamed; save "
            "numpy.ascontiguousarray of it"
        )
    row_bytes = int(np.prod(shape[1:], dtype=int)) * dtype.itemsize

    def read(start: int, stop: int) -> Array:
        count = max(0, min(stop, shape[0]) - start) if shape else 1
        stream = streams.open(member)
        stream.seek(first + start * row_bytes)
        content = stream.read(count * row_bytes)
        if len(content) < count * row_bytes:
            raise EOFError(f"{member} ends early")
        return np.frombuffer(content, dtype).reshape((count, *shape[1:]) if shape else ())

    return StoredArray(shape, dtype, read)


def _npy_header(
    file: IO[bytes], where: object, size: int
) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    try:
        return read_npy_header(file, where, size)
    except UnreadableFile as err:
        raise FeatureFileError(str(err)) from err
