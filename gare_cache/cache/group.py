"""The zarr group of a cache: created once, checked whenever it is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

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
from gare_cache.errors import CacheError, FingerprintMismatch
from gare_cache.files import canonical_digest, replacing

if TYPE_CHECKING:
    from torch import Tensor


def open_group(folder: Path) -> zarr.Group:
    """Open the group of a cache for reading.

    Raises:
        CacheError: the group is missing, damaged or of another format.
    """
    if not (folder / FEATURES).is_dir():
        raise CacheError(f"no feature cache at {folder}; run `gare-cache extract`")
    try:
        group = zarr.open_group(folder / FEATURES, mode="r", zarr_format=3)
    except (FileNotFoundError, ValueError) as err:
        raise CacheError(
            f"{folder / FEATURES} cannot be opened ({err}); restore zarr.json from a copy, or move "
            "the cache away and extract again"
        ) from err
    check_format(dict(group.attrs), folder)
    return group


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
    group = zarr.open_group(folder / FEATURES, mode="a", zarr_format=3)
    from safetensors.torch import save

    tensors = save(dict(head_start))
    if not (folder / HEAD_START).exists():
        with replacing(folder / HEAD_START) as partial:
            partial.write_bytes(tensors)
    if "format_version" not in group.attrs:  # new, or its creation was interrupted
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
    if attributes["extraction_id"] != canonical_digest(identity):
        raise FingerprintMismatch(
            f"{folder} holds another extraction ({str(attributes['extraction_id'])[:12]}, not "
            f"{canonical_digest(identity)[:12]}); move it away"
        )
    return group


def stored_array(group: zarr.Group, spec: ArraySpec, folder: Path) -> zarr.Array[Any]:
    """Return an array of a cache's group.

    Raises:
        CacheError: it is missing, or its layout is not the cache's.
    """
    array = group.get(spec.name)
    if (
        not isinstance(array, zarr.Array)
        or array.shape[1:] != spec.row_shape
        or array.chunks[1:] != spec.row_shape
        or array.dtype != np.dtype(spec.dtype)
        or array.compressors
    ):
        raise CacheError(
            f"{folder / FEATURES / spec.name} is not the raw array of rows {spec.row_shape} "
            f"{spec.dtype} that belongs there; restore it from a copy, or move the cache away and "
            "extract again"
        )
    return array


def stored_unit_rows(group: zarr.Group, layout: Layout, folder: Path) -> dict[Kind, int]:
    """Return the rows per unit that were chosen when the arrays were created."""
    return {
        kind: int(stored_array(group, layout.arrays(kind)[0], folder).chunks[0]) for kind in KINDS
    }


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
