"""Read the jsonl of moment retrieval: QVHighlights, Charades-STA, TACoS as its community has them.

A line is ``{"qid", "query", "duration", "vid", "relevant_windows"}``; other keys are ignored. Given
is one ``.jsonl`` file, or a folder of them. Its name says the split by a word between separators
(``highlight_val_release.jsonl``: val); a file whose name has none is split by a hash.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gare_cache.annotations.fields import check_clip, field_of
from gare_cache.annotations.grammar import Sizes
from gare_cache.annotations.record import SPLIT_NAMES, AnnotationRecord, Annotations
from gare_cache.annotations.text_files import check_text, parse_json, read_text
from gare_cache.errors import AnnotationError, counted

WINDOW = "window"
SIZES: dict[str, Sizes] = {"video": {}, WINDOW: {}}


def read_moments(path: Path, protocol: str) -> Annotations:
    """Read queries with their videos or their relevant windows.

    ``video``: each query is a caption of the whole video that holds its moment (partially relevant
    video retrieval). ``window``: each relevant window is a clip, and a query of several windows is
    a caption of each. A caption's id ends in ``#qid``.

    Args:
        path: a ``.jsonl`` file, or a folder of them.
        protocol: one of ``SIZES``.

    Returns:
        The captions, in the order of the files, these by name.

    Raises:
        AnnotationError: there is no file, its name has words of two splits, a line is no such
            object, a ``qid`` occurs twice, a window lasts no time, or no query has windows.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file() or files[0].suffix != ".jsonl":
        raise AnnotationError(
            f"dataset.annotations: {path.absolute()} is no .jsonl file, nor a folder of them"
        )
    records: list[AnnotationRecord] = []
    notes: list[str] = []
    first: dict[str, str] = {}  # qid -> where
    for file in files:
        records += _read(file, protocol, first, notes)
    if not records:
        raise AnnotationError(f"{path}: no query has relevant_windows; take the protocol video")
    return Annotations(records, tuple(notes))


def _read(
    path: Path, protocol: str, first: dict[str, str], notes: list[str]
) -> list[AnnotationRecord]:
    split = _split(path)
    records: list[AnnotationRecord] = []
    without, several, queries = 0, 0, 0
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n"), 1):
        origin = f"{path}:{number}"
        row = parse_json(origin, line)
        key = _key(origin, row, first)
        text = field_of(origin, row, "query", str, "a string")
        caption = check_text(origin, "query", text).strip()
        video = check_text(origin, "vid", field_of(origin, row, "vid", str, "a string")).strip()
        windows: list[tuple[float | None, float | None]] = [(None, None)]
        if protocol == WINDOW:
            windows = [*_windows(origin, row)]
        queries += 1
        without += not windows
        several += len(windows) > 1
        records += [
            AnnotationRecord(video, caption, split, start, end, origin, caption_key=key)
            for start, end in windows
        ]
    if without:
        notes.append(
            f"warning: {queries - without:,} of {counted(queries, 'query')} of {path.name}: "
            f"{counted(without, 'query', 'have')} no relevant_windows"
        )
    if several:
        notes.append(
            f"{several:,} of {counted(queries, 'query')} of {path.name} have several windows, each "
            "a clip with the query as its caption"
        )
    return records


def _key(origin: str, row: Any, first: dict[str, str]) -> str:
    key = str(field_of(origin, row, "qid", (int, str), "a number or a string"))
    if key in first:
        raise AnnotationError(
            f"{origin}: qid {key} occurs twice, first at {first[key]}; delete one"
        )
    first[key] = origin
    return key


def _windows(origin: str, row: Any) -> dict[tuple[float, float], None]:
    if "relevant_windows" not in row:
        return {}  # as in files of a test whose answers are held back
    windows = field_of(origin, row, "relevant_windows", list, "a list of intervals")
    return dict.fromkeys(check_clip(origin, window) for window in windows)


def _split(path: Path) -> str | None:
    words = re.split(r"[^a-z0-9]+", path.stem.lower())
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    if len(found) > 1:
        raise AnnotationError(f"{path}: its name has words of two splits; rename it")
    return found.pop() if found else None
