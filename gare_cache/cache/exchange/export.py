"""Export a cache's features to one HDF5 file, in the packed layout that the import reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

from gare_cache.cache.exchange.tables import IDS, NUM_FRAMES, PACKED, TIMES
from gare_cache.cache.reader import FeatureCache
from gare_cache.cache.rows import ID
from gare_cache.cache.schema import FEATURES, KINDS, Kind
from gare_cache.errors import FeatureFileError
from gare_cache.files import replacing

ENCODER_IDENTITY = "encoder_identity"
HEAD_START_PREFIX = "encoder_init/"
_DATASETS = {
    "video/frames": PACKED["video"],
    "video/times": TIMES,
    "video/num_frames": NUM_FRAMES,
    "text/features": PACKED["text"],
}


def export_features(
    cache: FeatureCache,
    path: Path,
    ids: dict[Kind, Sequence[str]],
    *,
    on_items: Callable[[int], None],
) -> None:
    """Write features to HDF5, unit by unit, and rename the finished file into place.

    Items are in the order of the cache's rows. A failed video has ``num_frames`` 0 and NaN frames,
    a failed caption NaN.

    Args:
        cache: the features.
        path: the file to create.
        ids: the videos and captions to export.
        on_items: called with the number of items written.

    Raises:
        CacheError: the cache lacks an item.
        FeatureFileError: the file exists.
    """
    if path.exists():
        raise FeatureFileError(f"{path} exists; remove it, or give another name")
    rows = {kind: sorted(cache.rows(kind, ids[kind])) for kind in KINDS}
    group = zarr.open_group(cache.folder / FEATURES, mode="r", zarr_format=3)
    with _creating(path) as (file, stream):
        file.attrs.update(_attributes(cache))
        for name, tensor in cache.head_start().items():
            file[HEAD_START_PREFIX + name] = tensor.numpy()
        for kind in KINDS:
            sources = cache.tables[kind].sources
            written = [sources[row][ID[kind]] for row in rows[kind]]
            file.create_dataset(IDS[kind], data=written, dtype=h5py.string_dtype())
            stream.check()
            for number in _write_arrays(file, group, cache, kind, rows[kind]):
                stream.check()
                on_items(number)


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


def _write_arrays(
    file: h5py.File,
    group: zarr.Group,
    cache: FeatureCache,
    kind: Kind,
    rows: Sequence[int],
) -> Iterator[int]:
    """Write the arrays of a kind and yield the number of items after each unit."""
    specs = [spec for spec in cache.layout.arrays(kind) if spec.name in _DATASETS]
    for spec in specs:
        file.create_dataset(_DATASETS[spec.name], (len(rows), *spec.row_shape), spec.dtype)
    unit_rows = cache.tables[kind].unit_rows
    for first, members in _units(rows, unit_rows):
        base = rows[first] // unit_rows * unit_rows
        for spec in specs:
            unit: Any = group[spec.name]
            values = np.asarray(unit[base : base + unit_rows])[np.asarray(members) - base]
            file[_DATASETS[spec.name]][first : first + len(members)] = values
        yield len(members)


def _units(rows: Sequence[int], unit_rows: int) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield the rows of each unit, with the position of the first among all rows."""
    first = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or rows[place] // unit_rows != rows[first] // unit_rows:
            yield first, rows[first:place]
            first = place


def _attributes(cache: FeatureCache) -> dict[str, Any]:
    identity = cache.attributes["identity"]
    return {
        "dataset": cache.attributes["dataset"],
        "encoder_id": cache.encoder_id,
        "extraction_id": cache.extraction_id,
        "content_digest": cache.content_digest,
        ENCODER_IDENTITY: json.dumps(identity["encoder"], sort_keys=True),
        "extraction_identity": json.dumps(identity, sort_keys=True),
    }
