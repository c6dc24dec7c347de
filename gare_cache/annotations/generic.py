"""Read captions from CSV, JSON lines or Parquet: video, caption[, split, start, end]."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gare_cache.annotations.record import SPLIT_NAMES, AnnotationRecord, Annotations
from gare_cache.errors import AnnotationError, unknown_name

REQUIRED_COLUMNS = ("video", "caption")
OPTIONAL_COLUMNS = ("split", "start", "end")

_Row = tuple[str, dict[str, Any]]


def read_generic(path: Path) -> Annotations:
    """Read one caption per row.

    Args:
        path: ``.csv``, ``.jsonl`` or ``.parquet`` with the columns ``video`` and ``caption`` and,
            optionally, ``split`` (train, val, test), ``start`` and ``end`` (seconds). Other
            columns are ignored.

    Returns:
        The records, in the file's order.

    Raises:
        AnnotationError: the file is missing, empty, of another type, lacks a column, or a row has
            an empty video or caption, an unknown split or an invalid interval.
    """
    if not path.is_file():
        raise AnnotationError(f"annotation file {path} does not exist")
    rows = _ROWS.get(path.suffix.lower())
    if rows is None:
        raise AnnotationError(unknown_name("annotation file type", path.suffix, _ROWS))
    try:
        records = [_record(origin, row) for origin, row in rows(path)]
    except (UnicodeDecodeError, pa.ArrowInvalid, csv.Error) as err:
        raise AnnotationError(f"{path} cannot be read as {path.suffix[1:]}: {err}") from err
    if not records:
        raise AnnotationError(f"{path} holds no captions")
    return Annotations(records)


def _csv_rows(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        _check_columns(path, list(reader.fieldnames or ()))
        for row in reader:
            yield f"{path}:{reader.line_num}", row


def _jsonl_rows(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            origin = f"{path}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as err:
                raise AnnotationError(f"{origin}: not a JSON object: {err}") from err
            if not isinstance(row, dict):
                raise AnnotationError(f"{origin}: not a JSON object: {line.strip()[:60]!r}")
            _check_columns(origin, list(row))
            yield origin, row


def _parquet_rows(path: Path) -> Iterator[_Row]:
    table = pq.read_table(path)
    _check_columns(path, table.column_names)
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{path}: row {number}", row


_ROWS: dict[str, Callable[[Path], Iterator[_Row]]] = {
    ".csv": _csv_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
}


def _check_columns(where: Path | str, columns: list[str]) -> None:
    for name in REQUIRED_COLUMNS:
        if name not in columns:
            raise AnnotationError(
                f"{where}: no column {name!r} (found: {', '.join(columns) or 'none'}); required: "
                f"{' and '.join(REQUIRED_COLUMNS)}, optional {', '.join(OPTIONAL_COLUMNS)}"
            )


def _record(origin: str, row: dict[str, Any]) -> AnnotationRecord:
    start = _seconds(origin, "start", row.get("start"))
    end = _seconds(origin, "end", row.get("end"))
    if start is not None and end is not None and start > end:
        raise AnnotationError(f"{origin}: start {start:g} s is after end {end:g} s")
    return AnnotationRecord(
        video=_text(origin, "video", row["video"]),
        caption=_text(origin, "caption", row["caption"]),
        split=_split(origin, row.get("split")),
        start_seconds=start,
        end_seconds=end,
        origin=origin,
    )


def _text(origin: str, column: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise AnnotationError(
            f"{origin}: column {column!r} is {value!r}; it must be a non-empty string"
        )
    return value.strip()


def _split(origin: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    name = str(value).strip().lower()
    if name not in SPLIT_NAMES:
        raise AnnotationError(f"{origin}: {unknown_name('split', name, SPLIT_NAMES)}")
    return SPLIT_NAMES[name]


def _seconds(origin: str, column: str, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError) as err:
        raise AnnotationError(
            f"{origin}: column {column!r} is {value!r}; it must be a time in seconds"
        ) from err
    if not math.isfinite(seconds) or seconds < 0:
        raise AnnotationError(
            f"{origin}: column {column!r} is {seconds}; it must be a time in seconds, >= 0"
        )
    return seconds
