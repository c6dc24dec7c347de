"""Atomic file writes (temporary name, fsync, rename), appended lines, digests."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import secrets
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gare_cache.errors import EnvironmentFailure, UnreadableFile, disk_errors
from gare_cache.limits import TABLE_BYTES, TABLE_VALUES, parse_json, read_bytes, read_text
from gare_cache.locks import lock_within

PARTIAL_SUFFIX = ".partial"
_DIGEST = "digest"
_MAKE_AGAIN = "restore it from a copy, or write it again with the command that made it"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it.

    Every call has a name of its own, so that of several writers each publishes a whole file. On an
    exception the temporary file is removed and an earlier ``path`` stays as it was. Those of killed
    writers are removed first: a living writer holds a lock on its own.

    Raises:
        EnvironmentFailure: the disk fails, as in ``disk_errors``.
    """
    with disk_errors(path):
        new, partial = _names_beside(path)
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            new.rename(partial)  # by this name it is found, and is locked
            yield partial
            fsync(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
            os.close(descriptor)
        fsync(path.parent)


@contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success flush its files and rename it.

    On an exception the temporary folder is removed. Those of killed writers are removed first.

    Raises:
        EnvironmentFailure: the disk fails, as in ``disk_errors``, or ``path`` exists at the end.
    """
    with disk_errors(path):
        new, partial = _names_beside(path)
        new.mkdir()
        descriptor = os.open(new, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            new.rename(partial)  # by this name it is found, and is locked
            yield partial
            os.sync()  # at once; then fsync of each file has nothing to write, and reports errors
            for written in partial.rglob("*"):
                fsync(written)
            fsync(partial)
            _rename_folder(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(descriptor)
        fsync(path.parent)


def _rename_folder(partial: Path, path: Path) -> None:
    try:
        partial.rename(path)
    except OSError as err:
        if err.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise EnvironmentFailure(
            f"{path} appeared while it was being written; remove it, or give another name"
        ) from err


def _names_beside(path: Path) -> tuple[Path, Path]:
    """Return a new name beside a path, and its partial one; those of the dead are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{glob.escape(path.name)}.*{PARTIAL_SUFFIX}"):
        _remove_if_left(left)
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    return new, new.with_name(f"{new.name}{PARTIAL_SUFFIX}")


def _remove_if_left(partial: Path) -> None:
    with suppress(FileNotFoundError):
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if partial.is_dir():
                shutil.rmtree(partial)
            else:
                partial.unlink()
        except BlockingIOError:  # its writer lives
            pass
        finally:
            os.close(descriptor)


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
        EnvironmentFailure: the line cannot be written whole, as in ``disk_errors``, or another
            process holds the file for longer than 30 s.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        content = line.encode() + b"\n"
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            lock_within(descriptor, path)
            whole = _end_of_last_line(descriptor)
            os.ftruncate(descriptor, whole)
            try:
                rest = memoryview(content)
                while rest:  # after a short write, the next says why
                    rest = rest[os.write(descriptor, rest) :]
            except OSError:
                os.ftruncate(descriptor, whole)
                raise
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fsync(path.parent)


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a file, separated by ``\n`` alone, without an unterminated last one.

    ``str.splitlines`` would also cut at U+2028, U+0085 and others, which a name may hold.
    """
    return read_bytes(path).decode(errors="replace").split("\n")[:-1]


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
    """Read a JSON file of the tool's own; an object of ``write_record`` without its digest.

    Raises:
        UnreadableFile: it is no JSON, does not have its digest, or exceeds a limit.
    """
    return unsealed(path, parse_own_json(path, read_text(path)))


def read_json_lines(path: Path) -> list[Any]:
    r"""Read a file of the tool's own with one JSON value on each line, separated by ``\n`` alone.

    Raises:
        UnreadableFile: a line is no JSON or does not have its digest, or the file exceeds a limit.
    """
    lines = enumerate(read_text(path).split("\n"), 1)
    places = ((f"{path}:{number}", line) for number, line in lines if line)
    return [unsealed(where, parse_own_json(where, line)) for where, line in places]


def parse_own_json(where: object, text: str) -> Any:
    """Parse JSON that this tool wrote.

    Raises:
        UnreadableFile: it is no JSON, or nested too deeply.
    """
    try:
        return parse_json(where, text)
    except UnreadableFile:
        raise
    except ValueError as err:
        raise UnreadableFile(f"{where} is damaged: not valid JSON ({err}); {_MAKE_AGAIN}") from err


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON atomically; the same value gives the same bytes.

    NaN and infinity, which JSON does not have, become null.
    """
    text = json.dumps(finite_or_none(value), indent=2, sort_keys=True, ensure_ascii=False)
    write_text(path, text + "\n")


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as ``write_json`` does, with a digest by which ``read_json`` finds damage."""
    write_json(path, sealed(value))


def write_json_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Write objects one a line, atomically, each with the digest of ``write_record``."""
    lines = (json.dumps(sealed(value), sort_keys=True, ensure_ascii=False) for value in values)
    write_text(path, "".join(f"{line}\n" for line in lines))


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object as JSON holds it, with the digest of its content."""
    content: dict[str, Any] = json.loads(json.dumps(finite_or_none(value)))
    return {**content, _DIGEST: canonical_digest(content)}


def unsealed(where: object, value: Any) -> Any:
    """Return what ``sealed`` sealed; values of earlier versions have no digest.

    Raises:
        UnreadableFile: the content does not have its digest.
    """
    if not isinstance(value, dict) or _DIGEST not in value:
        return value
    content = {key: item for key, item in value.items() if key != _DIGEST}
    if canonical_digest(content) != value[_DIGEST]:
        raise UnreadableFile(
            f"{where} is damaged, or was changed by hand: it does not have its digest; "
            f"{_MAKE_AGAIN}"
        )
    return content


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
        pq.write_table(table, partial, write_page_checksum=True)


def read_parquet(path: Path, columns: Sequence[str] | pa.Schema | None = None) -> pa.Table:
    """Read a Parquet table of at most ``TABLE_VALUES`` values and ``TABLE_BYTES`` once decoded.

    Args:
        path: the file.
        columns: those to read, with a schema also of its types; None reads all.

    Raises:
        LimitExceeded: it holds more.
        UnreadableFile: it is damaged, no Parquet file, or has not these columns.
    """
    schema, names = (columns, columns.names) if isinstance(columns, pa.Schema) else ((), columns)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_decoded_size(path, file, names)
            lacking = [name for name in names or () if name not in file.schema_arrow.names]
            if lacking:
                raise UnreadableFile(
                    f"{path} has no column {lacking[0]!r} (found: "
                    f"{', '.join(file.schema_arrow.names)}); write it again"
                )
            for field in schema:
                found = file.schema_arrow.field(field.name).type
                if found != field.type:
                    raise UnreadableFile(
                        f"{path} has {found} in the column {field.name!r} instead of "
                        f"{field.type}; {_MAKE_AGAIN}"
                    )
            table = file.read(names)
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as err:  # the last in a name
        if isinstance(err, OSError) and err.errno is not None:
            raise
        raise UnreadableFile(
            f"{path} cannot be read as Parquet ({' '.join(str(err).split())}); it is damaged: "
            "restore it from a copy, or write it again"
        ) from err
    return table


def column_chunks(
    path: Path, names: Sequence[str] | None = None
) -> list[list[pq.ColumnChunkMetaData]]:
    """Return what the footer of a Parquet file says of the columns of each row group.

    ``RowGroupMetaData.column`` ends the process where damage made a column's parts contradict one
    another (pyarrow 26). The reader looks at the same parts before it reads ahead, and raises.

    Args:
        path: the file.
        names: of the columns; None for all.

    Raises:
        OSError, pyarrow.ArrowException: it is damaged.
        UnicodeDecodeError: a name is.
    """
    with pq.ParquetFile(path, memory_map=True, pre_buffer=True) as file:
        next(file.iter_batches(1, columns=names), None)
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        places = _places(file, names)
        return [[group.column(place) for place in places] for group in groups]


def _places(file: pq.ParquetFile, names: Sequence[str] | None) -> list[int]:
    """Return the places of columns in the file, of nested ones all that they are made of."""
    read = set(file.schema_arrow.names if names is None else names)
    paths = [file.schema.column(place).path for place in range(len(file.schema))]
    return [place for place, of in enumerate(paths) if {of, of.split(".")[0]} & read]


def _check_decoded_size(path: Path, file: pq.ParquetFile, names: Sequence[str] | None) -> None:
    """Bound what the columns take, in which a dictionary may repeat one long value often."""
    metadata = file.metadata
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    TABLE_VALUES.check(path, metadata.num_rows)
    TABLE_BYTES.check(path, sum(group.total_byte_size for group in groups))
    chunks = column_chunks(path, names)
    columns = [file.schema.column(place) for place in _places(file, names)]
    values = [sum(group[at].num_values for group in chunks) for at in range(len(columns))]
    TABLE_VALUES.check(path, sum(values))
    strings = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    widths = (max(8, column.length or 0) for column in columns)  # INT96 becomes 8 bytes
    fixed = sum(count * width for count, width in zip(values, widths, strict=True))
    bounds = _bounds(path, chunks, strings)
    unclear = [name for name in strings if name not in bounds]
    most = fixed + sum(bounds.values()) + _decoded_bytes(path, unclear)
    if most > TABLE_BYTES.value:
        TABLE_BYTES.check(path, fixed + _decoded_bytes(path, strings))


def _bounds(
    path: Path, chunks: Sequence[Sequence[pq.ColumnChunkMetaData]], strings: Sequence[str]
) -> dict[str, int]:
    """Return the most bytes that columns of strings can take, where the first rows tell.

    A column takes at most what its pages hold and as often as it has values the longest entry of
    its dictionary, which is read with the first row. A dictionary of one entry may be that of a
    plain page before others.
    """
    once = [name for name, times in Counter(strings).items() if times == 1]
    bounds = dict.fromkeys((name for name in once if "." not in name), 0)
    with pq.ParquetFile(path, read_dictionary=list(bounds)) as opened:
        for number, group in enumerate(chunks):
            first = next(opened.iter_batches(1, [number], list(bounds)), None)
            for chunk in group:
                name = chunk.path_in_schema
                if name in bounds:
                    values = first[name] if first is not None else None
                    if isinstance(values, pa.DictionaryArray) and len(values.dictionary) > 1:
                        longest = pc.max(pc.binary_length(values.dictionary)).as_py()
                        bounds[name] += chunk.total_uncompressed_size + chunk.num_values * longest
                    else:
                        del bounds[name]
    return bounds


def _decoded_bytes(path: Path, strings: Sequence[str]) -> int:
    """Return the bytes that columns of strings take, read as dictionaries, which stay small."""
    with pq.ParquetFile(path, read_dictionary=list(strings)) as file:
        table = file.read(columns=list(strings))
    return sum(_string_bytes(chunk) for column in table.columns for chunk in column.chunks)


def _string_bytes(array: pa.Array) -> int:
    if isinstance(array, pa.DictionaryArray):
        lengths = pc.binary_length(array.dictionary)
        return pc.sum(pc.take(lengths, array.indices)).as_py() or 0
    if pa.types.is_nested(array.type):
        return sum(map(_string_bytes, _inner(array)))
    return int(array.nbytes)


def _inner(array: pa.Array) -> list[pa.Array]:
    if pa.types.is_struct(array.type):
        return list(array.flatten())
    return [array.values] if not pa.types.is_map(array.type) else [array.keys, array.items]


def is_zip(path: Path) -> bool:
    """Return whether a file is a zip archive, sound or damaged."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # raised, unlike other damage, for a part of several disks
        return True


def canonical_digest(value: Any) -> str:
    """Return the SHA-256 (hex) of a value's canonical JSON: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
