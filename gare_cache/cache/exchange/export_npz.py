"""Write features as a folder of one npz file an item."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from gare_cache.cache.exchange.export_source import FOLDERS, ExportSource, export_folder
from gare_cache.cache.exchange.names import file_names
from gare_cache.cache.exchange.tables import TIMES
from gare_cache.cache.schema import KINDS, Kind
from gare_cache.errors import FeatureFileError

KEYS: dict[Kind, str] = {"video": "features", "text": "pooler_output"}
SUFFIX = ".npz"
_LONGEST_NAME = 255  # bytes, of most file systems


def write_npz_folder(source: ExportSource, path: Path) -> None:
    """Write ``video/ID.npz`` (``features`` (T, D), ``times`` (T,)) and ``text/ID.npz``.

    A caption's array is ``pooler_output`` (D,), as in the releases of moment retrieval.
    ``video.csv`` and ``text.csv`` list the files in order, each with its id, split and sentence.

    Args:
        source: what to write.
        path: the folder to create.

    Raises:
        CacheError: the cache is damaged.
        FeatureFileError: an id is too long for the name of a file.
        EnvironmentFailure: the disk fails.
    """
    names = {kind: file_names(source.ids(kind)) for kind in KINDS}
    for kind in KINDS:
        for id_, name in zip(source.ids(kind), names[kind], strict=True):
            _check_length(id_, name)
    with export_folder(path, "npz-per-item", source) as folder:
        for kind in KINDS:
            _write_kind(source, kind, names[kind], folder)


def index_file(folder: Path, kind: Kind) -> Path:
    """Return the table of a kind's files."""
    return folder / f"{FOLDERS[kind]}.csv"


def _write_kind(source: ExportSource, kind: Kind, names: list[str], folder: Path) -> None:
    (folder / FOLDERS[kind]).mkdir()
    with index_file(folder, kind).open("w", newline="", encoding="utf-8") as file:
        index = csv.writer(file, lineterminator="\n")
        for unit in source.items(kind):
            if not unit[0].row:
                index.writerow(["file", "id", *unit[0].about])
            for item in unit:
                name = names[item.row]
                arrays: dict[str, Any] = {KEYS[kind]: item.features}
                if item.times is not None:
                    arrays[TIMES] = item.times
                np.savez(folder / FOLDERS[kind] / f"{name}{SUFFIX}", **arrays)
                index.writerow([name, item.id, *item.about.values()])


def _check_length(id_: str, name: str) -> None:
    size = len(f"{name}{SUFFIX}".encode())
    if size > _LONGEST_NAME:
        raise FeatureFileError(
            f"the id {id_[:40]!r}... takes {size} bytes as the name of a file, of at most "
            f"{_LONGEST_NAME}; export with --layout hdf5, webdataset or huggingface"
        )
