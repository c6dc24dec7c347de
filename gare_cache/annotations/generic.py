"""Read captions from CSV, JSON lines or Parquet: video, caption[, split, start, end]."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from gare_cache.annotations.record import SPLIT_NAMES, AnnotationRecord, Annotations
from gare_cache.annotations.text_files import (
    Table,
    check_text,
    match_columns,
    parse_json,
    read_csv,
    read_text,
    shorten,
)
from gare_cache.errors import AnnotationError, LimitExceeded, UnreadableFile, unknown_name
from gare_cache.files import read_parquet

REQUIRED_COLUMNS = ("video", "caption")
OPTIONAL_COLUMNS = ("split", "start", "end")

# float() also reads "1_0", "nan" and "infinity".
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


def read_generic(path: Path) -> Annotations:
    """Read one caption per row; a file whose captions are all empty lists videos without captions.

    Args:
        path: ``.csv`` or ``.tsv`` (cells separated by commas, semicolons, tabs or vertical bars),
            ``.jsonl`` or ``.parquet`` with the columns ``video`` and ``caption`` and, optionally,
            ``split`` (train, val, test), ``start`` and ``end`` (seconds). Other columns are
            ignored.

    Returns:
        The records, in the file's order.

    Raises:
        AnnotationError: the file is missing, empty, of another type or encoding, lacks a column,
            or a row has another number of cells, an empty video or caption, an unknown split or
            an invalid or empty interval.
    """
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise AnnotationError(f"dataset.annotations: {path.absolute()} {kind}; it must be a file")
    read = _TABLES.get(path.suffix.lower())
    if read is None:
        raise AnnotationError(unknown_name("annotation file type", path.suffix, _TABLES))
    table = read(path)
    if not table.rows:
        raise AnnotationError(f"{path} holds no captions")
    bare = all(_is_blank(row["caption"]) for _, row in table.rows)
    note = f"{path.name} has no captions yet: the videos can be searched, not trained on"
    return Annotations(
        [_record(origin, row, bare=bare) for origin, row in table.rows],
        (*table.notes, *([note] if bare else [])),
    )


def _read_csv(path: Path) -> Table:
    return read_csv(path, REQUIRED_COLUMNS, OPTIONAL_COLUMNS, path.name)


def _read_jsonl(path: Path) -> Table:
    rows = []
    notes: dict[str, None] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        origin = f"{path.name}:{number}"
        try:
            row = parse_json(origin, line)
        except AnnotationError as err:
            raise AnnotationError(f"{err}; every line of .jsonl holds one object") from err
        if not isinstance(row, dict):
            raise AnnotationError(
                f"{origin}: not a JSON object: {shorten(line.strip())}; every line of .jsonl holds "
                "one object"
            )
        names, renamed = match_columns(origin, list(row), REQUIRED_COLUMNS, OPTIONAL_COLUMNS)
        rows.append((origin, dict(zip(names, row.values(), strict=True))))
        if renamed:
            notes.setdefault(renamed.replace(origin, path.name, 1))
    return Table(rows, tuple(notes))


def _read_parquet(path: Path) -> Table:
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    try:
        table = read_parquet(path)
    except LimitExceeded:
        raise
    except UnreadableFile as err:
        raise AnnotationError(str(err)) from err
    names, renamed = match_columns(
        path.name, table.column_names, REQUIRED_COLUMNS, OPTIONAL_COLUMNS
    )
    table = table.rename_columns(names).select([name for name in known if name in names])
    try:
        rows = table.to_pylist()
    except (pa.ArrowException, ValueError) as err:  # not UTF-8, or times finer than Python's
        raise AnnotationError(f"{path} cannot be read as parquet: {err}") from err
    return Table(
        [(f"{path.name}: row {number}", row) for number, row in enumerate(rows, 1)],
        (renamed,) if renamed else (),
    )


_TABLES: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _record(origin: str, row: Any, *, bare: bool) -> AnnotationRecord:
    start = _seconds(origin, "start", row.get("start"))
    end = _seconds(origin, "end", row.get("end"))
    if end is not None and (start or 0.0) >= end:
        raise AnnotationError(
            f"{origin}: no time lies between start {start or 0.0} s and end {end} s"
        )
    return AnnotationRecord(
        video=check_text(origin, "video", row["video"]).strip(),
        caption=None if bare else check_text(origin, "caption", row["caption"]).strip(),
        split=_split(origin, row.get("split")),
        start_seconds=start,
        end_seconds=end,
        origin=origin,
    )


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _split(origin: str, value: Any) -> str | None:
    if _is_blank(value):
        return None
    name = str(value).strip().lower()
    if name not in SPLIT_NAMES:
        raise AnnotationError(f"{origin}: {unknown_name('split', name, SPLIT_NAMES)}")
    return SPLIT_NAMES[name]


def _seconds(origin: str, column: str, value: Any) -> float | None:
    if _is_blank(value):
        return None
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not number and not (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise AnnotationError(
            f"{origin}: column {column!r} is {shorten(value)}; it must be a time in seconds"
        )
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0:
        raise AnnotationError(
            f"{origin}: column {column!r} is {shorten(value)}; it must be a time in seconds, >= 0"
        )
    return seconds
