"""Atomic file writes (temporary name, fsync, rename), appended lines, digests."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gare_cache.locks import lock_within

PARTIAL_SUFFIX = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it.

    Every call has a name of its own, so that of several writers each publishes a whole file. On an
    exception the temporary file is removed and an earlier ``path`` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    try:
        yield partial
        fsync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    r"""Append a line that ends with ``\n`` and flush it to disk; whole, or not at all.

    One process at a time appends. A line that a crash cut short before is dropped.

    Raises:
        OSError: the line cannot be written whole (``ENOSPC`` where the disk takes a part).
        EnvironmentFailure: another process holds the file for longer than 30 s.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = line.encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        lock_within(descriptor, path)
        whole = _end_of_last_line(descriptor)
        os.ftruncate(descriptor, whole)
        if os.write(descriptor, content) < len(content):
            os.ftruncate(descriptor, whole)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fsync(path.parent)


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a file, separated by ``\n`` alone, without an unterminated last one.

    ``str.splitlines`` would also cut at U+2028, U+0085 and others, which a name may hold.
    """
    return path.read_bytes().decode(errors="replace").split("\n")[:-1]


def last_line(path: Path) -> bytes:
    r"""Return the last whole line of a file without its ``\n``; empty if there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        end = _end_of_last_line(descriptor)
        start = _end_of_last_line(descriptor, max(0, end - 1))
        return os.pread(descriptor, end - start, start)[:-1]
    finally:
        os.close(descriptor)


def _end_of_last_line(descriptor: int, end: int | None = None) -> int:
    """Return the position after the last line break before ``end``; None is the file's end."""
    end = os.fstat(descriptor).st_size if end is None else end
    while end:
        start = max(0, end - 4096)
        place = os.pread(descriptor, end - start, start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON atomically; the same value gives the same bytes.

    NaN and infinity, which JSON does not have, become null.
    """
    text = json.dumps(finite_or_none(value), indent=2, sort_keys=True, ensure_ascii=False)
    write_text(path, text + "\n")


def finite_or_none(value: Any) -> Any:
    """Return nested mappings and sequences with None in place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a Parquet table atomically."""
    with replacing(path) as partial:
        pq.write_table(table, partial)


def canonical_digest(value: Any) -> str:
    """Return the SHA-256 (hex) of a value's canonical JSON: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
