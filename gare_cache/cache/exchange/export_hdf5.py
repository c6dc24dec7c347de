"""Write features to one HDF5 file, in the packed layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py

from gare_cache.cache.exchange.export_source import ExportSource
from gare_cache.cache.exchange.tables import HEAD_START_PREFIX, IDS, NUM_FRAMES, PACKED, TIMES
from gare_cache.cache.rows import ID
from gare_cache.cache.schema import KINDS, Kind
from gare_cache.files import replacing

_DATASETS = {
    "video/frames": PACKED["video"],
    "video/times": TIMES,
    "video/num_frames": NUM_FRAMES,
    "text/features": PACKED["text"],
}


def write_hdf5(source: ExportSource, path: Path) -> None:
    """Write ``frames`` (N, F, D), NaN on padding, ``times``, ``num_frames``, ``text`` and the ids.

    Args:
        source: what to write.
        path: the file to create.

    Raises:
        CacheError: the cache is damaged.
        EnvironmentFailure: the disk fails.
    """
    with _creating(path) as (file, stream):
        file.attrs.update(source.attributes())
        for name, tensor in source.cache.head_start().items():
            file[HEAD_START_PREFIX + name] = tensor.numpy()
        for kind in KINDS:
            file.create_dataset(IDS[kind], data=source.ids(kind), dtype=h5py.string_dtype())
            stream.check()
            for _ in _write_arrays(file, source, kind):
                stream.check()


class _Stream:
    """A file for HDF5, which crashes when it closes a file that could not be written.

    The first failure is kept, and what HDF5 writes after it is dropped.
    """

    def __init__(self, raw: FileIO) -> None:
        self._raw = raw
        self._failure: OSError | None = None
        self.read, self.readinto = raw.read, raw.readinto
        self.seek, self.tell = raw.seek, raw.tell

    def write(self, data: memoryview) -> None:
        self._keep_failure(self._write, data)

    def truncate(self, size: int) -> None:
        self._keep_failure(self._raw.truncate, size)

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

    def check(self) -> None:
        """Raise the first failure, if any."""
        if self._failure is not None:
            raise self._failure

    def _write(self, data: memoryview) -> None:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self._raw.write(rest) :]

    def _keep_failure(self, work: Callable[[Any], object], argument: Any) -> None:
        if self._failure is None:
            try:
                work(argument)
            except OSError as err:
                self._failure = err


@contextmanager
def _creating(path: Path) -> Iterator[tuple[h5py.File, _Stream]]:
    with replacing(path) as partial, partial.open("r+b", buffering=0) as raw:
        stream = _Stream(raw)
        try:
            with h5py.File(stream, "w") as file:
                yield file, stream
        finally:
            stream.check()  # an error of HDF5 may follow from a dropped write


def _write_arrays(file: h5py.File, source: ExportSource, kind: Kind) -> Iterator[None]:
    """Write the arrays of a kind and yield after each unit."""
    specs = [spec for spec in source.cache.layout.arrays(kind) if spec.name in _DATASETS]
    for spec in specs:
        shape = (len(source.rows[kind]), *spec.row_shape)
        file.create_dataset(_DATASETS[spec.name], shape, spec.dtype)
    first = 0
    for unit in source.units(kind):
        ids = [item[ID[kind]] for _, item in unit]
        place = slice(first, first + len(ids))
        if kind == "text":
            file[PACKED["text"]][place] = source.cache.captions(ids)
        else:
            held = source.cache.videos(ids)
            file[PACKED["video"]][place] = held.frames
            file[TIMES][place] = held.times
            file[NUM_FRAMES][place] = held.num_frames
        first += len(ids)
        yield
