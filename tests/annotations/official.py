"""Unpack official annotation files, which lie beside the repository, and count records."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gare_cache.annotations.record import SPLITS, Annotations


def unpack(source: Path, folder: Path, names: Mapping[str, str]) -> Path:
    """Write files of a folder, gzipped or not, under the names that a reader expects."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in names.items():
        content = (source / name).read_bytes()
        (folder / target).write_bytes(gzip.decompress(content) if name.endswith(".gz") else content)
    return folder


def sizes(annotations: Annotations) -> dict[str, tuple[int, int]]:
    """Return split -> videos and captions."""
    rows = {split: [r for r in annotations.records if r.split == split] for split in SPLITS}
    return {split: (len({r.video for r in rs}), len(rs)) for split, rs in rows.items() if rs}


def words(annotations: Annotations, split: str) -> list[int]:
    """Return the number of words of each caption of a split."""
    return [len(r.caption.split()) for r in annotations.records if r.split == split]


def dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
