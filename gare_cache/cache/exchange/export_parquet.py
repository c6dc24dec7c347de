"""Write features as a data set of Hugging Face: Parquet files and a README.md that names them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from gare_cache.cache.exchange.export_source import (
    FOLDERS,
    ExportedItem,
    ExportSource,
    export_folder,
)
from gare_cache.cache.schema import KINDS, Kind

_VECTOR = pa.list_(pa.float16())
_SCHEMAS: dict[Kind, pa.Schema] = {
    "video": pa.schema(
        [
            ("id", pa.string()),
            ("split", pa.string()),
            ("start_seconds", pa.float64()),
            ("end_seconds", pa.float64()),
            ("reason", pa.string()),
            ("row", pa.int64()),
            ("times", pa.list_(pa.float32())),
            ("features", pa.list_(_VECTOR)),
        ]
    ),
    "text": pa.schema(
        [
            ("id", pa.string()),
            ("video_id", pa.string()),
            ("split", pa.string()),
            ("caption", pa.string()),
            ("reason", pa.string()),
            ("row", pa.int64()),
            ("features", _VECTOR),
        ]
    ),
}


def write_parquet_folder(source: ExportSource, path: Path) -> None:
    """Write ``video/SPLIT-00000-of-00001.parquet`` and ``text/...``, two configurations.

    ``datasets.load_dataset(path, "video")`` and ``"text"`` read them by the front matter of
    ``README.md``. Columns: id, split, reason of a failure, row (the order of the cache), features,
    and of a video start_seconds, end_seconds and times, of a caption video_id and caption. Every
    unit of the cache is a row group a split.

    Args:
        source: what to write.
        path: the folder to create.

    Raises:
        CacheError: the cache is damaged.
        EnvironmentFailure: the disk fails.
    """
    with export_folder(path, "huggingface", source) as folder:
        for kind in KINDS:
            _write_kind(source, kind, folder)
        (folder / "README.md").write_text(_readme(source), encoding="utf-8")


def _write_kind(source: ExportSource, kind: Kind, folder: Path) -> None:
    (folder / FOLDERS[kind]).mkdir()
    totals = Counter(item["split"] for _, item in source.rows[kind])
    written: Counter[str] = Counter()
    most = source.shard_items(kind)
    with ExitStack() as opened:
        writers: dict[str, tuple[Path, pq.ParquetWriter]] = {}
        for unit in source.items(kind):
            for split in totals:
                rest = [item for item in unit if item.about["split"] == split]
                while rest:
                    shard, room = divmod(written[split], most)
                    taken, rest = rest[: most - room], rest[most - room :]
                    name = f"{split}-{shard:05d}-of-{math.ceil(totals[split] / most):05d}.parquet"
                    file = folder / FOLDERS[kind] / name
                    if split not in writers or writers[split][0] != file:
                        if split in writers:
                            writers[split][1].close()
                        writer = opened.enter_context(_writer(file, kind))
                        writers[split] = (file, writer)
                    writers[split][1].write_table(_table(kind, taken))
                    written[split] += len(taken)


def _writer(file: Path, kind: Kind) -> pq.ParquetWriter:
    # Features do not compress, and a dictionary of them would be kept in memory.
    return pq.ParquetWriter(
        file,
        _SCHEMAS[kind],
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )


def _table(kind: Kind, items: Sequence[ExportedItem]) -> pa.Table:
    columns: dict[str, Any] = {"id": [item.id for item in items]}
    columns["row"] = [item.row for item in items]
    for name in items[0].about:
        columns[name] = [item.about[name] for item in items]
    matrices = [np.atleast_2d(item.features) for item in items]
    columns["features"] = _vectors(np.concatenate(matrices))
    if kind == "video":
        counts = [len(matrix) for matrix in matrices]
        columns["features"] = _lists(counts, columns["features"])
        times = [item.times for item in items if item.times is not None]
        columns["times"] = _lists(counts, pa.array(np.concatenate(times), pa.float32()))
    return pa.table({name: columns[name] for name in _SCHEMAS[kind].names}, _SCHEMAS[kind])


def _vectors(matrix: np.ndarray[Any, np.dtype[np.float16]]) -> pa.ListArray:
    values = pa.array(matrix.reshape(-1), pa.float16())
    return _lists([matrix.shape[1]] * len(matrix), values)


def _lists(counts: Sequence[int], values: pa.Array) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _readme(source: ExportSource) -> str:
    configs: list[dict[str, Any]] = []
    for kind in filter(source.rows.get, KINDS):
        splits = dict.fromkeys(item["split"] for _, item in source.rows[kind])
        files = [{"split": split, "path": f"{FOLDERS[kind]}/{split}-*.parquet"} for split in splits]
        configs.append({"config_name": FOLDERS[kind], "data_files": files})
    for config in configs[:1]:
        config["default"] = True
    about = source.attributes()
    return (
        f"---\n{yaml.safe_dump({'configs': configs}, sort_keys=False)}---\n"
        f"# Features of {about['dataset']}\n\n"
        f"Encoder: `{about['encoder_id']}`. Features are float16, not normalised. "
        "`gare-cache import-features` reads this folder back exactly.\n\n"
        "```python\n"
        'videos = datasets.load_dataset(path, "video")\n'
        'captions = datasets.load_dataset(path, "text")\n'
        "```\n"
    )
