"""Export a cache's features, unit by unit, in one of several layouts that the import reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gare_cache.cache.exchange.export_hdf5 import write_hdf5
from gare_cache.cache.exchange.export_npz import write_npz_folder
from gare_cache.cache.exchange.export_parquet import write_parquet_folder
from gare_cache.cache.exchange.export_source import ExportSource
from gare_cache.cache.exchange.export_tar import write_tar_folder
from gare_cache.cache.reader import FeatureCache
from gare_cache.cache.rows import ID
from gare_cache.cache.schema import KINDS, Kind
from gare_cache.errors import ConfigError, FeatureFileError, unknown_name

HDF5 = "hdf5"
EXPORTS: dict[str, Callable[[ExportSource, Path], None]] = {
    HDF5: write_hdf5,
    "npz-per-item": write_npz_folder,
    "webdataset": write_tar_folder,
    "huggingface": write_parquet_folder,
}
_SHARDED = ("webdataset", "huggingface")
_SHARD_MIB = 512


def export_features(
    cache: FeatureCache,
    path: Path,
    items: Mapping[Kind, Sequence[Mapping[str, Any]]],
    *,
    layout: str = HDF5,
    shard_mib: int | None = None,
    on_items: Callable[[int], None],
) -> None:
    """Write features under a temporary name, and rename the finished file or folder into place.

    Items are in the order of the cache's rows. A failed video has no frames, a failed caption is
    NaN.

    Args:
        cache: the features.
        path: the file or folder to create.
        items: rows of the manifest: the videos and captions to export.
        layout: a name of ``EXPORTS``.
        shard_mib: mebibytes of features in a tar or Parquet file, at least 1; None is 512.
        on_items: called with the number of items written.

    Raises:
        ConfigError: the layout is unknown, or has no shards and a size of them is given.
        CacheError: the cache lacks an item, or is damaged.
        FeatureFileError: the path exists, or an id is too long for the name of a file.
        EnvironmentFailure: the disk fails.
    """
    if layout not in EXPORTS:
        raise ConfigError(unknown_name("layout", layout, EXPORTS))
    if shard_mib is not None and layout not in _SHARDED:
        raise ConfigError(f"--shard-mib has no effect on the layout {layout}; leave it out")
    if shard_mib is not None and shard_mib < 1:
        raise ConfigError(f"--shard-mib is {shard_mib}; it must be at least 1")
    if path.exists() or path.is_symlink():
        raise FeatureFileError(f"{path} exists; remove it, or give another name")
    ordered = {}
    for kind in KINDS:
        rows = cache.rows(kind, [item[ID[kind]] for item in items[kind]])
        pairs = sorted(zip(rows, items[kind], strict=True), key=lambda pair: pair[0])
        ordered[kind] = pairs
    shard_bytes = (shard_mib or _SHARD_MIB) * 2**20
    EXPORTS[layout](ExportSource(cache, ordered, shard_bytes, on_items), path)
