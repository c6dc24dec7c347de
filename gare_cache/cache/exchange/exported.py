"""Open feature files, also the folders that export-features writes."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gare_cache.cache.exchange.export_npz import KEYS, SUFFIX, index_file
from gare_cache.cache.exchange.export_source import CARD, FOLDER_VERSION, FOLDERS, HEAD_START_FILE
from gare_cache.cache.exchange.files import FeatureFile, StoredArray, open_feature_file
from gare_cache.cache.exchange.item_files import tar_array, tar_members
from gare_cache.cache.exchange.item_folders import npz_array
from gare_cache.cache.exchange.item_parquet import (
    FEATURES_COLUMN,
    group_ids,
    list_arrays,
    lists_reader,
    plain_column,
    row_groups,
    with_width,
)
from gare_cache.cache.exchange.release_rows import in_memory
from gare_cache.cache.exchange.tables import HEAD_START_PREFIX, TIMES
from gare_cache.cache.schema import KINDS, Kind
from gare_cache.errors import FeatureFileError, LimitExceeded, UnreadableFile
from gare_cache.files import read_json
from gare_cache.limits import TEXT_BYTES, parse_json, read_text

# Id, features, and the seconds of a video.
_Item = tuple[str, StoredArray, StoredArray | None]
_AGAIN = "export it again"
_COLUMNS_HELD = 6  # features and times of a row group a split, whose rows may alternate


def exported_layout(path: Path) -> str | None:
    """Return the layout of a folder that export-features wrote; None for anything else.

    Raises:
        FeatureFileError: its card is damaged, or of another version.
    """
    return _read_card(path)["layout"] if (path / CARD).is_file() else None


@contextmanager
def open_features_at(path: Path) -> Iterator[FeatureFile]:
    """Open what export-features wrote in any layout, or a file of ``open_feature_file``.

    Raises:
        FeatureFileError: it has another format, is damaged, or holds pickled objects.
    """
    if not (path / CARD).is_file():
        with open_feature_file(path) as file:
            yield file
        return
    card = _read_card(path)
    arrays: dict[str, StoredArray] = {}
    for kind in KINDS:
        count = 0
        for id_, features, times in _READERS[card["layout"]](path, kind):
            name = f"{kind}/{id_}"
            if name in arrays:
                raise FeatureFileError(f"{path} holds the {kind} {id_!r} twice; {_AGAIN}")
            arrays[name] = with_width(features, card["dim"])
            if times is not None:
                arrays[f"{TIMES}/{id_}"] = times
            count += 1
        if count != card["counts"][kind]:
            raise FeatureFileError(
                f"{path} holds {count:,} {kind} items, {CARD} says {card['counts'][kind]:,}; "
                f"files are missing: copy it again, or {_AGAIN}"
            )
    with open_feature_file(path / HEAD_START_FILE) as start:
        arrays |= {HEAD_START_PREFIX + name: in_memory(start.whole(name)) for name in start.arrays}
    yield FeatureFile(path, arrays, attributes=card["attributes"])


def _read_card(path: Path) -> dict[str, Any]:
    where = path / CARD
    try:
        card: Any = read_json(where)
    except LimitExceeded:
        raise
    except UnreadableFile as err:
        raise FeatureFileError(f"{where} cannot be read: {err}") from err
    version = card.get("format_version") if isinstance(card, dict) else None
    if version != FOLDER_VERSION or card.get("layout") not in _READERS:
        raise FeatureFileError(
            f"{where} has format {version!r}; this version reads {FOLDER_VERSION}: {_AGAIN}"
        )
    counts = card.get("counts")
    if not (
        isinstance(counts, dict)
        and all(isinstance(counts.get(kind), int) for kind in KINDS)
        and isinstance(card.get("dim"), int)
        and isinstance(card.get("attributes"), dict)
    ):
        raise FeatureFileError(f"{where} lacks counts, dim or attributes; {_AGAIN}")
    held: dict[str, Any] = card
    return held


def _npz_items(path: Path, kind: Kind) -> Iterator[_Item]:
    index = index_file(path, kind)
    try:
        rows = list(csv.reader(io.StringIO(read_text(index), newline=""), strict=True))
    except LimitExceeded:
        raise
    except (OSError, csv.Error, UnreadableFile) as err:
        raise FeatureFileError(f"{index} cannot be read: {err}; {_AGAIN}") from err
    for number, row in enumerate(rows[1:], start=2):
        name, id_ = row[:2] if len(row) > 1 else ("", "")
        file = path / FOLDERS[kind] / f"{name}{SUFFIX}"
        if not name or "/" in name or "\0" in name or not file.is_file():
            raise FeatureFileError(f"{index}, row {number}: no file {file}; {_AGAIN}")
        times = npz_array(file, TIMES) if kind == "video" else None
        yield id_, npz_array(file, KEYS[kind]), times


def _tar_items(path: Path, kind: Kind) -> Iterator[_Item]:
    for shard in sorted(path.glob(f"{FOLDERS[kind]}-*.tar")):
        features: StoredArray | None = None
        for archive, member in tar_members(shard):
            if member.name.endswith(".npy"):
                features = tar_array(shard, member)
            elif member.name.endswith(".json") and features is not None:
                about = _description(shard, archive, member)
                yield about["id"], features, _times(shard, about) if kind == "video" else None
                features = None
            else:
                raise FeatureFileError(f"{shard} holds {member.name} out of place; {_AGAIN}")


def _description(shard: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    where = f"{shard}, {member.name}"
    TEXT_BYTES.check(where, member.size)
    content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
    try:
        about = parse_json(where, content.read() if content else b"")
    except LimitExceeded:
        raise
    except (ValueError, OSError, tarfile.TarError) as err:
        raise FeatureFileError(f"{where} is not JSON ({err}); {_AGAIN}") from err
    if not isinstance(about, dict) or not isinstance(about.get("id"), str):
        raise FeatureFileError(f"{where} holds no id; {_AGAIN}")
    return about


def _times(shard: Path, about: dict[str, Any]) -> StoredArray:
    try:
        return in_memory(np.array(about.get(TIMES), dtype=np.float32))  # None becomes NaN
    except (ValueError, TypeError, OverflowError) as err:
        raise FeatureFileError(f"{shard}: {TIMES} of {about['id']!r} are no seconds") from err


def _parquet_items(path: Path, kind: Kind) -> Iterator[_Item]:
    lists = lists_reader(held=_COLUMNS_HELD)
    items: dict[int, _Item] = {}
    for group in row_groups(sorted((path / FOLDERS[kind]).glob("*.parquet"))):
        features = list_arrays(lists, group, FEATURES_COLUMN)
        times: list[Any] = [None] * len(features)
        if kind == "video":
            times = list(list_arrays(lists, group, TIMES))
        rows = plain_column(group, "row").tolist()
        found = zip(group_ids(group), features, times, strict=True)
        items |= dict(zip(rows, found, strict=True))
    yield from (items[row] for row in sorted(items))


_READERS: dict[str, Callable[[Path, Kind], Iterator[_Item]]] = {
    "npz-per-item": _npz_items,
    "webdataset": _tar_items,
    "huggingface": _parquet_items,
}
