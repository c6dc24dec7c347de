"""Read text, JSON and CSV files of annotations: what may be misread is an error with its line."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gare_cache import limits
from gare_cache.errors import AnnotationError, LimitExceeded, counted
from gare_cache.limits import VALUE_CHARACTERS, read_bytes

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# Longest first: the mark of UTF-32 begins with that of UTF-16.
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_FIRST_BYTES = 16  # of a header, which has no NUL among them
_WEB_PAGE = "is a web page, not the file that it is named for; fetch the file itself"
# Beginning, without spaces and in lower case -> what such a file is, and what to do.
_NO_TEXT = {
    b"\x1f\x8b": "is compressed by gzip; unpack it (gunzip)",
    b"<!doctype": _WEB_PAGE,
    b"<html": _WEB_PAGE,
}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Table:
    """Rows of a file, each with its ``file:line``, and remarks on how the file was read."""

    rows: Sequence[tuple[str, Mapping[str, Any]]]
    notes: tuple[str, ...] = ()


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark; line ends stay as they are.

    Raises:
        AnnotationError: the file has another encoding, and the message names the line, or it is
            compressed or a web page.
        LimitExceeded: the file is too large.
    """
    return decode_text(path, read_bytes(path))


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 file, without their ends; a blank line stays.

    Raises:
        AnnotationError: the file is empty, or as ``read_text``.
        LimitExceeded: the file is too large.
    """
    text = read_text(path)
    if not text.strip():
        raise AnnotationError(f"{path} is empty; fetch it again")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def decode_text(path: Path, content: bytes) -> str:
    """Decode the bytes of a file as ``read_text`` does, with its errors."""
    for beginning, what in _NO_TEXT.items():
        if content[:_FIRST_BYTES].lstrip().lower().startswith(beginning):
            raise AnnotationError(f"{path} {what}")
    for mark, name in _OTHER_ENCODINGS.items():
        if content.startswith(mark):
            raise AnnotationError(f"{path} is {name} text; save as UTF-8")
    if b"\0" in content[:_FIRST_BYTES]:
        raise AnnotationError(
            f"{path}:1: begins with NUL bytes, as UTF-16 text without its mark; save as UTF-8"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = content.count(b"\n", 0, err.start) + 1
        near = content[max(err.start - 20, 0) : err.start + 20].decode("latin-1").splitlines()
        shown = next((part for part in near if not part.isascii()), "")
        raise AnnotationError(
            f"{path}:{line}: byte {content[err.start]:#x} is not UTF-8 (as Latin-1: {shown!r}); "
            "save as UTF-8"
        ) from err


def parse_json(origin: Path | str, text: str | bytes) -> Any:
    """Parse JSON; an object that names a key twice is an error, not its last value.

    Raises:
        AnnotationError: the text is not JSON, or too long a number to be read.
        LimitExceeded: it is nested too deeply.
    """
    try:
        return limits.parse_json(origin, text, object_pairs_hook=_without_repeats)
    except LimitExceeded:
        raise
    except ValueError as err:
        whole = "it is empty; fetch it again" if not text.strip() else err
        raise AnnotationError(f"{origin}: not valid JSON: {whole}") from err


def read_csv(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), source: str = ""
) -> Table:
    """Read a table with a header, separated by commas, semicolons, tabs or vertical bars.

    Args:
        path: the file; it must exist.
        required: columns that it must have, in any case of letters.
        optional: further columns with a meaning; others are kept under their own names.
        source: name of the file in messages; the path without it.

    Returns:
        The rows with ``path:line`` of their first line, and a note where the separator is not a
        comma or a column is written otherwise.

    Raises:
        AnnotationError: the file is not UTF-8, a column is missing or named twice, a quote is not
            closed, or a row has more or fewer cells than the header.
    """
    source = source or str(path)
    text = read_text(path)
    separator = _separator(text, required)
    notes = (
        [] if separator == "," else [f"{source}: cells are separated by {SEPARATORS[separator]}"]
    )
    lines = (row for row in _csv_lines(source, text, separator) if any(map(str.strip, row[1])))
    _, header = next(lines, ("", []))
    names, renamed = match_columns(source, header, required, optional)
    if renamed:
        notes.append(renamed)
    rows = [(origin, _row(origin, cells, names)) for origin, cells in lines]
    return Table(rows, tuple(notes))


def read_tab(path: Path, columns: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Read a file of cells separated by tabs, without a header; a quote is a character.

    Args:
        path: the file; it must exist.
        columns: what the cells of each row are, for messages; their number is checked.

    Returns:
        ``path:line`` and the cells of each row, outer spaces included.

    Raises:
        AnnotationError: the file is not UTF-8 or empty, or a row has more or fewer cells.
    """
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise AnnotationError(
                f"{path}:{number}: {counted(len(cells), 'cell')} separated by tabs, it must have "
                f"{len(columns)}: {', '.join(columns)}; correct the line"
            )
        rows.append((f"{path}:{number}", cells))
    return rows


def match_columns(
    source: Path | str, found: Sequence[str], required: Sequence[str], optional: Sequence[str]
) -> tuple[list[str], str]:
    """Recognise columns whatever the case of their letters and the spaces around.

    Returns:
        The names in the order found, and a note that names those written otherwise ("" if none).

    Raises:
        AnnotationError: a required column is missing, or two columns have one name.
    """
    known = {name.casefold(): name for name in (*required, *optional)}
    names = [known.get(name.strip().casefold(), name.strip()) for name in found]
    for name in required:
        if name not in names:
            listed = " and ".join(required) + (f", optional {', '.join(optional)}" * bool(optional))
            raise AnnotationError(
                f"{source}: no column {name!r} (found: {', '.join(found) or 'none'}); required: "
                f"{listed}"
            )
    repeated = [name for name, count in Counter(names).items() if count > 1 and name]
    if repeated:
        raise AnnotationError(f"{source}: column {repeated[0]!r} occurs twice")
    renamed = [f"{old!r} as {new!r}" for old, new in zip(found, names, strict=True) if old != new]
    return names, f"{source}: column {', '.join(renamed)}" if renamed else ""


def check_text(origin: str, name: str, value: Any) -> str:
    """Return the value of a column or key that must hold text.

    Raises:
        AnnotationError: it is not a string, empty, or holds what is no text (NUL, half a pair of
            UTF-16).
        LimitExceeded: it is too long.
    """
    if not isinstance(value, str) or not value.strip():
        raise AnnotationError(
            f"{origin}: {name!r} is {shorten(value)}; it must be a non-empty string"
        )
    VALUE_CHARACTERS.check(origin, len(value))
    if "\0" in value or _SURROGATE.search(value):
        kind = "a NUL character" if "\0" in value else "half of a UTF-16 pair"
        raise AnnotationError(f"{origin}: {name!r} holds {kind}: {shorten(value)}")
    return value


def shorten(value: Any) -> str:
    """Return a value for a message, ASCII where it cannot be printed, at most 60 characters."""
    shown = ascii(value) if isinstance(value, str) and _SURROGATE.search(value) else repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"the key {repeated[0]!r} occurs twice in one object")
    return dict(pairs)


def _separator(text: str, required: Sequence[str]) -> str:
    header = text.lstrip().splitlines()[:1]
    for separator in SEPARATORS:
        cells = next(csv.reader(header, delimiter=separator, skipinitialspace=True), [])
        if {name.casefold() for name in required} <= {cell.strip().casefold() for cell in cells}:
            return separator
    return ","


def _csv_lines(source: str, text: str, separator: str) -> Iterator[tuple[str, list[str]]]:
    csv.field_size_limit(VALUE_CHARACTERS.value)
    # A quote after the separator and a space opens a cell, too.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    while True:
        origin = f"{source}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            if "field larger than" in str(err):
                VALUE_CHARACTERS.check(origin, VALUE_CHARACTERS.value + 1, at_least=True)
            raise AnnotationError(f"{origin}: this row cannot be read as csv: {err}") from err
        yield origin, cells


def _row(origin: str, cells: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    if len(cells) != len(names):
        more = len(cells) > len(names)
        raise AnnotationError(
            f"{origin}: {counted(len(cells), 'cell')}, but the header names "
            f"{counted(len(names), 'column')} ({', '.join(names)}): "
            + (
                'a cell that holds the separator must stand in quotes, "a man, a dog"'
                if more
                else "an empty cell needs its separator too"
            )
        )
    return dict(zip(names, cells, strict=True))
