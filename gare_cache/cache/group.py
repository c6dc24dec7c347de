"""The zarr group of a cache: created once, checked whenever it is opened.

Reading needs no more than the JSON of the metadata: zarr takes longer to import than that to read,
and is imported by what writes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import numpy as np

from gare_cache.cache.rows import read_sources
from gare_cache.cache.schema import (
    FEATURES,
    FORMAT_VERSION,
    HEAD_START,
    KINDS,
    WORDS,
    ArraySpec,
    Kind,
    Layout,
    check_format,
)
from gare_cache.errors import CacheError, FingerprintMismatch, counted
from gare_cache.files import canonical_digest, read_json, replacing, write_json

if TYPE_CHECKING:
    import zarr
    from torch import Tensor

METADATA = "zarr.json"
_WRITTEN_AGAIN = "run `gare-cache extract`, which writes it again"


def read_attributes(folder: Path) -> dict[str, Any]:
    """Read the attributes of a cache.

    Raises:
        CacheError: the group is missing, damaged or of another format.
    """
    if not (folder / FEATURES).is_dir():
        raise CacheError(f"no feature cache at {folder}; run `gare-cache extract`")
    try:
        attributes = dict(_stored(folder / FEATURES, "group")["attributes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise CacheError(
            f"{folder / FEATURES / METADATA} is missing or damaged ({err}); {_WRITTEN_AGAIN}"
        ) from err
    check_format(attributes, folder)
    _check_attributes(attributes, folder)
    return attributes


def _stored(node: Path, kind: str) -> dict[str, Any]:
    """Return the metadata of a group or an array.

    Raises:
        FileNotFoundError, ValueError: there are none, or they are of something else.
    """
    stored: dict[str, Any] = read_json(node / METADATA)
    if (stored["zarr_format"], stored["node_type"]) != (3, kind):
        raise ValueError(f"zarr_format {stored['zarr_format']}, node_type {stored['node_type']}")
    return stored


def _check_attributes(attributes: dict[str, Any], folder: Path) -> None:
    """Check that a cache's attributes are those of its identity."""
    try:
        identity = attributes["identity"]
        whole = (
            attributes["extraction_id"] == canonical_digest(identity)
            and attributes["encoder_id"] == canonical_digest(identity["encoder"])
            and isinstance(attributes["dataset"], str)
            and Layout(**attributes["layout"]).is_possible()
        )
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise CacheError(
            f"{folder / FEATURES / METADATA} does not hold the attributes of its extraction; "
            f"{_WRITTEN_AGAIN}"
        )


def open_group_for_writing(
    folder: Path,
    *,
    dataset: str,
    identity: dict[str, Any],
    layout: Layout,
    head_start: Mapping[str, Tensor],
) -> zarr.Group:
    """Open the group of a cache for writing; create it and its arrays if missing.

    Args:
        folder: the cache folder; the caller holds its gate.
        dataset: name of the data set.
        identity: the extraction identity.
        layout: shapes of the arrays.
        head_start: tensors that heads start from.

    Raises:
        CacheError: the group has another format.
        FingerprintMismatch: it belongs to another extraction.
    """
    import zarr
    from safetensors.torch import save

    rows = {kind: len(read_sources(folder, kind)) for kind in KINDS}
    filled = any(rows.values())
    if filled:
        _restore_metadata(folder, layout, rows)
    group = zarr.open_group(folder / FEATURES, mode="a", zarr_format=3)

    tensors = save(dict(head_start))
    if not (folder / HEAD_START).exists():
        with replacing(folder / HEAD_START) as partial:
            partial.write_bytes(tensors)
    if "format_version" not in group.attrs:  # new, its creation was interrupted, or it was lost
        if not filled:
            for kind in KINDS:
                for spec in layout.arrays(kind):
                    _create_array(group, spec, layout.unit_rows(kind))
            if layout.words:
                group.require_group(WORDS)
        group.update_attributes(
            {
                "dataset": dataset,
                "identity": identity,
                "extraction_id": canonical_digest(identity),
                "encoder_id": canonical_digest(identity["encoder"]),
                "layout": layout.to_json(),
                "head_start_sha256": hashlib.sha256(tensors).hexdigest(),
                "format_version": FORMAT_VERSION,
            }
        )
    attributes = dict(group.attrs)
    check_format(attributes, folder)
    _check_attributes(attributes, folder)
    if attributes["extraction_id"] != canonical_digest(identity):
        raise FingerprintMismatch(
            f"{folder} holds another extraction ({str(attributes['extraction_id'])[:12]}, not "
            f"{canonical_digest(identity)[:12]}); move it away"
        )
    return group


def stored_rows(folder: Path, spec: ArraySpec) -> tuple[int, int]:
    """Return the number of rows of an array, and of one of its chunks, by its metadata.

    Raises:
        CacheError: they are missing, or their layout is not the cache's.
    """
    try:
        stored = _stored(folder / FEATURES / spec.name, "array")
        (rows, *row_shape) = map(int, stored["shape"])
        (unit_rows, *chunk_shape) = map(int, stored["chunk_grid"]["configuration"]["chunk_shape"])
        wrong = (
            tuple(row_shape) != spec.row_shape
            or tuple(chunk_shape) != spec.row_shape
            or stored["data_type"] != np.dtype(spec.dtype).name
            or stored["codecs"] != _raw(spec)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        wrong = True
    if wrong:
        raise _array_error(folder, spec)
    return rows, unit_rows


def _raw(spec: ArraySpec) -> list[dict[str, Any]]:
    """Return the codecs of raw little-endian blocks; single bytes have no order."""
    if np.dtype(spec.dtype).itemsize == 1:
        return [{"name": "bytes"}]
    return [{"name": "bytes", "configuration": {"endian": "little"}}]


def stored_array(group: zarr.Group, spec: ArraySpec, folder: Path) -> zarr.Array[Any]:
    """Return an array of a cache's group, to be written.

    Raises:
        CacheError: it is missing, or its layout is not the cache's.
    """
    import zarr

    try:
        array = group.get(spec.name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        array = None
    if (
        not isinstance(array, zarr.Array)
        or array.shape[1:] != spec.row_shape
        or array.chunks[1:] != spec.row_shape
        or array.dtype != np.dtype(spec.dtype)
        or array.compressors
    ):
        raise _array_error(folder, spec)
    return array


def _array_error(folder: Path, spec: ArraySpec) -> CacheError:
    return CacheError(
        f"{folder / FEATURES / spec.name / METADATA} is missing, or not that of the raw array "
        f"of rows {spec.row_shape} {spec.dtype} that belongs there; {_WRITTEN_AGAIN}"
    )


def stored_unit_rows(layout: Layout, folder: Path) -> dict[Kind, int]:
    """Return the rows per unit that were chosen when the arrays were created.

    Raises:
        CacheError: the metadata of an array say something else than the other arrays and chunks.
    """
    unit_rows = {kind: unit_rows_on_disk(folder, layout, kind) for kind in KINDS}
    for kind, expected in unit_rows.items():
        for spec in layout.arrays(kind):
            _, rows = stored_rows(folder, spec)
            if rows != expected:
                raise CacheError(
                    f"{folder / FEATURES / spec.name / METADATA} has {counted(rows, 'row')} per "
                    f"chunk, the cache {expected:,}; {_WRITTEN_AGAIN}"
                )
    return unit_rows


def array_fault(folder: Path, spec: ArraySpec, unit_rows: int) -> str | None:
    """Say what is wrong with the metadata of an array; None if it is as written."""
    try:
        stored = read_json(folder / FEATURES / spec.name / METADATA)
        rows = int(stored["shape"][0])
    except FileNotFoundError:
        return "it is missing"
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return "it is not the metadata of an array"
    expected = array_metadata(spec, rows, unit_rows)
    wrong = [key for key, value in expected.items() if stored.get(key) != value]
    return f"{', '.join(wrong)} not as written" if wrong else None


def array_metadata(spec: ArraySpec, rows: int, unit_rows: int) -> dict[str, Any]:
    """Return what the metadata of an array must say: all that decides how its chunks are read."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    group = zarr.open_group(MemoryStore(), mode="w", zarr_format=3)
    _create_array(group, spec, unit_rows)
    array = stored_array(group, spec, Path())
    array.resize((rows, *spec.row_shape))
    stored = array.metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes()
    values: dict[str, Any] = json.loads(stored)
    return {key: value for key, value in values.items() if key not in ("attributes", "name")}


def _restore_metadata(folder: Path, layout: Layout, rows: Mapping[Kind, int]) -> None:
    """Write metadata that are missing or damaged again, so that the chunks below them are kept."""
    for kind in KINDS:
        unit_rows = unit_rows_on_disk(folder, layout, kind)
        for spec in layout.arrays(kind):
            if array_fault(folder, spec, unit_rows):
                metadata = array_metadata(spec, rows[kind], unit_rows)
                write_json(folder / FEATURES / spec.name / METADATA, metadata)
    try:
        read_attributes(folder)
    except CacheError:
        # Another format is refused below. Damaged attributes are written from the settings, whose
        # digest the folder is named after.
        if _stored_version(folder) in (None, FORMAT_VERSION):
            write_json(folder / FEATURES / METADATA, {"zarr_format": 3, "node_type": "group"})


def _stored_version(folder: Path) -> Any:
    try:
        return read_json(folder / FEATURES / METADATA)["attributes"]["format_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def unit_rows_on_disk(folder: Path, layout: Layout, kind: Kind) -> int:
    """Return the rows per unit that most chunks and metadata of a kind agree on."""
    votes = Counter([layout.unit_rows(kind)])
    for spec in layout.arrays(kind):
        array, row_bytes = folder / FEATURES / spec.name, spec.row_bytes
        with suppress(OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
            rows = read_json(array / METADATA)["chunk_grid"]["configuration"]["chunk_shape"][0]
            votes[int(rows)] += 1
        with suppress(OSError):
            for unit in os.listdir(array / "c"):
                # A Path takes longer than the call.
                with suppress(OSError):
                    found = os.stat(f"{array}/c/{unit}" + "/0" * len(spec.row_shape))
                    if S_ISREG(found.st_mode):
                        votes[found.st_size // row_bytes] += 1
    return votes.most_common(1)[0][0]


def _create_array(group: zarr.Group, spec: ArraySpec, unit_rows: int) -> None:
    # Raw little-endian blocks: a chunk file can be memory-mapped and checked in place.
    group.create_array(
        spec.name,
        shape=(0, *spec.row_shape),
        chunks=(unit_rows, *spec.row_shape),
        dtype=spec.dtype,
        fill_value=spec.fill,
        compressors=None,
        filters=None,
        config={"write_empty_chunks": True},
        overwrite=True,
    )
