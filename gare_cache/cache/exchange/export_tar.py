"""Write features as tar shards of webdataset."""

from __future__ import annotations

import io
import json
import math
import tarfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from gare_cache.cache.exchange.export_source import (
    FOLDERS,
    ExportedItem,
    ExportSource,
    export_folder,
)
from gare_cache.cache.exchange.names import file_names
from gare_cache.cache.exchange.tables import TIMES
from gare_cache.cache.schema import KINDS, Kind


def write_tar_folder(source: ExportSource, path: Path) -> None:
    """Write ``video-00000.tar``, ... and ``text-00000.tar``, ... of ``KEY.npy`` and ``KEY.json``.

    The json of a video holds its id, split and seconds, that of a caption its id, video, split and
    sentence. A key is the id, percent-encoded where it has dots or slashes: programs of webdataset
    cut a name at its first dot. Members have the time 0 and the owner 0, so that the same features
    give the same bytes.

    Args:
        source: what to write.
        path: the folder to create.

    Raises:
        CacheError: the cache is damaged.
        EnvironmentFailure: the disk fails.
    """
    with export_folder(path, "webdataset", source) as folder:
        for kind in KINDS:
            _write_kind(source, kind, folder)


def _write_kind(source: ExportSource, kind: Kind, folder: Path) -> None:
    keys = file_names(source.ids(kind), dots=False)
    most = source.shard_items(kind)
    with ExitStack() as opened:
        for unit in source.items(kind):
            for item in unit:
                if item.row % most == 0:
                    opened.close()
                    shard = folder / f"{FOLDERS[kind]}-{item.row // most:05d}.tar"
                    archive = opened.enter_context(
                        tarfile.open(shard, "w", format=tarfile.PAX_FORMAT)
                    )
                content = io.BytesIO()
                np.save(content, item.features)
                _add(archive, f"{keys[item.row]}.npy", content.getvalue())
                _add(archive, f"{keys[item.row]}.json", _description(item))


def _description(item: ExportedItem) -> bytes:
    held = {"id": item.id, **item.about}
    if item.times is not None:
        held[TIMES] = [None if math.isnan(t) else t for t in item.times.tolist()]
    return json.dumps(held, ensure_ascii=False).encode()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
