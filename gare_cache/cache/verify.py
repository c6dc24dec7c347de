"""Verify a whole cache: its parts against each other, checksums, values, source digests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache import journal
from gare_cache.cache.chunks import (
    checksum,
    chunk_path,
    is_as_written,
    keep_done_rows,
    read_chunk,
    size_fault,
)
from gare_cache.cache.consistency import inconsistencies, journal_fault
from gare_cache.cache.faults import WRITE_AGAIN, Fault
from gare_cache.cache.group import METADATA, stored_rows
from gare_cache.cache.reader import FeatureCache, open_unchecked
from gare_cache.cache.rows import RowTable
from gare_cache.cache.schema import (
    FEATURES,
    HEAD_START,
    KINDS,
    LENGTHS,
    PATCHES,
    PIXELS,
    VIEWS,
    WORDS,
    ArraySpec,
    Kind,
)
from gare_cache.cache.words import read_unit_words, words_fault, words_path
from gare_cache.errors import CacheError, counted
from gare_cache.files import file_digest

_UNFINISHED = "rows that are not done hold data; an extraction was stopped while it wrote them"


@dataclass
class Verification:
    """Result of verifying a whole cache.

    Attributes:
        cache: the cache that was read.
        faults: in the order of the arrays.
        num_chunks: number of chunks read.
        num_bytes: their total size.
        sources_read: videos whose digest was computed again.
        sources_absent: videos whose file is not on this machine.
        norms: array -> (smallest, largest) norm of a feature vector.
    """

    cache: FeatureCache
    faults: list[Fault] = field(default_factory=list)
    num_chunks: int = 0
    num_bytes: int = 0
    sources_read: int = 0
    sources_absent: int = 0
    norms: dict[str, tuple[float, float]] = field(default_factory=dict)


def verify_cache(
    folder: Path, *, sources: bool = True, on_step: Callable[[int], None] = lambda _: None
) -> Verification:
    """Read everything that a cache holds and check it.

    Args:
        folder: the cache folder; no process may be writing it.
        sources: also compare the digests of the videos that are on this machine.
        on_step: called with 1 for every unit and every source; ``num_steps`` in all.

    Raises:
        CacheError: it is not a cache, or its tables or metadata cannot be read.
    """
    records, damage = journal.examine(folder)
    cache = open_unchecked(folder, records)
    result = Verification(cache)
    result.faults += [journal_fault(cache, line) for line in damage]
    result.faults += inconsistencies(cache)
    result.faults += _head_start_faults(cache)
    for kind in KINDS:
        _check_shapes(cache, kind)
        for unit in sorted(cache.tables[kind].checksums):
            result.faults += _unit_faults(cache, kind, unit, result)
            on_step(1)
    for row, source in _sources(cache) if sources else ():
        result.faults += _source_faults(cache.tables["video"], row, source, result)
        on_step(1)
    return result


def num_steps(folder: Path) -> int:
    """Return how often ``verify_cache`` calls ``on_step``."""
    cache = open_unchecked(folder, journal.examine(folder)[0])
    return sum(len(cache.tables[kind].checksums) for kind in KINDS) + len(list(_sources(cache)))


def _head_start_faults(cache: FeatureCache) -> Iterator[Fault]:
    path = cache.folder / HEAD_START
    expected = cache.attributes.get("head_start_sha256")
    remedy = f"delete {path} and run `gare-cache extract`, which writes it again"
    if not path.exists():
        yield Fault(HEAD_START, "it is missing", "run `gare-cache extract`, which writes it again")
    elif hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        yield Fault(HEAD_START, "it is not what was written", remedy)


def _check_shapes(cache: FeatureCache, kind: Kind) -> None:
    rows = len(cache.tables[kind].sources)
    for spec in cache.layout.arrays(kind):
        held, _ = stored_rows(cache.folder, spec)
        if held < rows:
            raise CacheError(
                f"{cache.folder}: array {spec.name} has {counted(held, 'row')}, its "
                f"table {rows:,}; delete {FEATURES}/{spec.name}/{METADATA} and run `gare-cache "
                "extract`, which writes it again"
            )


def _unit_faults(
    cache: FeatureCache, kind: Kind, unit: int, result: Verification
) -> Iterator[Fault]:
    table = cache.tables[kind]
    values: dict[str, npt.NDArray[Any]] = {}
    done = [row - unit * table.unit_rows for row in table.done_rows(unit)]
    for spec in cache.layout.arrays(kind):
        fault = size_fault(cache.folder, spec, unit, unit_rows=table.unit_rows)
        if fault is None:
            chunk = read_chunk(cache.folder, spec, unit, unit_rows=table.unit_rows)
            result.num_chunks += 1
            result.num_bytes += chunk.nbytes
            # Rows that are not done matter to the checksum alone.
            values[spec.name] = keep_done_rows(chunk, spec, done)
            yield from _checksum_faults(cache, spec, table, unit, chunk)
        else:
            file = str(chunk_path(cache.folder, spec, unit).relative_to(cache.folder))
            yield Fault(file, fault, WRITE_AGAIN, (kind, unit))
    if kind == "text" and cache.layout.words:
        yield from _words_faults(cache, unit, result)
    if len(values) == len(cache.layout.arrays(kind)):
        first = unit * table.unit_rows
        ok = np.array([table.status(first + i) == "ok" for i in range(table.unit_rows)])
        check = _video_problems if kind == "video" else _text_problems
        for name, problem, bad in check(values, ok, result):
            rows = tuple(int(row) for row in first + np.flatnonzero(bad))
            yield Fault(f"array {name}", problem, WRITE_AGAIN, (kind, unit), rows)


def _words_faults(cache: FeatureCache, unit: int, result: Verification) -> Iterator[Fault]:
    table = cache.tables["text"]
    path = words_path(cache.folder, unit)
    file = str(path.relative_to(cache.folder))
    problem = words_fault(cache.folder, cache.layout, table, unit)
    if problem is not None:
        yield Fault(file, problem, WRITE_AGAIN, ("text", unit))
        return
    words = read_unit_words(cache.folder, cache.layout, table, unit)
    result.num_chunks += 1
    result.num_bytes += path.stat().st_size
    expected = table.checksums[unit].get(WORDS)
    if words.checksum() != expected:
        problem = f"its checksum is {words.checksum()}, the journal has {expected}"
        yield Fault(file, problem, WRITE_AGAIN, ("text", unit))
    elif not words.exact:
        yield Fault(file, _UNFINISHED, "run `gare-cache extract`", ("text", unit), harmless=True)
    bad = [row for row, tokens in words.of_row.items() if not np.isfinite(tokens).all()]
    if bad:
        problem = "values that are not finite"
        yield Fault(f"array {WORDS}", problem, WRITE_AGAIN, ("text", unit), tuple(bad))


def _checksum_faults(
    cache: FeatureCache,
    spec: ArraySpec,
    table: RowTable,
    unit: int,
    chunk: npt.NDArray[Any],
) -> Iterator[Fault]:
    expected = table.checksums[unit].get(spec.name)
    if checksum(chunk) == expected:
        return
    done = [row % table.unit_rows for row in table.done_rows(unit)]
    file = str(chunk_path(cache.folder, spec, unit).relative_to(cache.folder))
    if is_as_written(chunk, spec, expected, lambda: done):
        remedy = "run `gare-cache extract`"
        yield Fault(file, _UNFINISHED, remedy, (table.kind, unit), harmless=True)
    else:
        problem = f"its checksum is {checksum(chunk)}, the journal has {expected}"
        yield Fault(file, problem, WRITE_AGAIN, (table.kind, unit))


def _video_problems(
    values: Mapping[str, npt.NDArray[Any]], ok: npt.NDArray[np.bool_], result: Verification
) -> Iterator[tuple[str, str, npt.NDArray[np.bool_]]]:
    num_frames = values["video/num_frames"]
    most = values["video/times"].shape[1]
    wrong = np.where(ok, (num_frames < 1) | (num_frames > most), num_frames != 0)
    if wrong.any():
        yield "video/num_frames", "counts that contradict the journal", wrong
    mask = np.arange(most) < num_frames[:, None]
    for name, values_of_frames in values.items():
        if name == "video/num_frames":
            continue
        by_frame = np.moveaxis(values_of_frames, 2, 1) if name == VIEWS else values_of_frames
        array = by_frame.reshape(len(ok), most, -1)
        bad = np.asarray((mask & ~np.isfinite(array).all(-1)).any(1))
        if name == "video/times":  # imported features may come without times
            bad = np.asarray(bad & ~np.isnan(array).all(axis=(1, 2)))
        if bad.any():
            yield name, "values that are not finite in real frames", bad
        blank = array == 0 if name == PIXELS else np.isnan(array)
        bad = np.asarray((~mask & ~blank.all(-1)).any(1))
        if bad.any():
            yield name, "values on padding frames", bad
    real = {"video/frames": mask, VIEWS: mask[:, None], PATCHES: mask[:, :, None]}
    for name in real.keys() & values.keys():
        zero = _zero_norm(name, values[name], real[name], result)
        if zero.any():
            bad = np.asarray(zero.reshape(len(ok), -1).any(1))
            yield name, "feature vectors of length zero", bad


def _text_problems(
    values: Mapping[str, npt.NDArray[Any]], ok: npt.NDArray[np.bool_], result: Verification
) -> Iterator[tuple[str, str, npt.NDArray[np.bool_]]]:
    features = values["text/features"]
    bad = ok & ~np.isfinite(features).all(1)
    if bad.any():
        yield "text/features", "values that are not finite", bad
    if LENGTHS in values:
        bad = (values[LENGTHS] > 0) != ok
        if bad.any():
            yield LENGTHS, "token counts that contradict the journal", np.asarray(bad)
    bad = ~ok & ~np.isnan(features).all(1)
    if bad.any():
        yield "text/features", "values in rows without a caption", bad
    bad = _zero_norm("text/features", features, ok, result)
    if bad.any():
        yield "text/features", "feature vectors of length zero", bad


def _zero_norm(
    name: str, vectors: npt.NDArray[Any], mask: npt.NDArray[np.bool_], result: Verification
) -> npt.NDArray[np.bool_]:
    norms = np.linalg.norm(vectors.astype(np.float32), axis=-1)
    mask = np.broadcast_to(mask, norms.shape)
    real = norms[mask & np.isfinite(norms)]
    if len(real):
        low, high = result.norms.get(name, (np.inf, 0.0))
        result.norms[name] = (min(low, float(real.min())), max(high, float(real.max())))
    return np.asarray(mask & (norms == 0))


def _sources(cache: FeatureCache) -> Sequence[tuple[int, dict[str, Any]]]:
    table = cache.tables["video"]
    return [
        (row, table.sources[row])
        for row in table.latest().values()
        if table.status(row) == "ok" and table.outcomes[row].digest is not None
    ]


def _source_faults(
    table: RowTable, row: int, source: dict[str, Any], result: Verification
) -> Iterator[Fault]:
    path = Path(source["path"])
    try:
        stat = path.stat()
    except OSError:
        result.sources_absent += 1
        return
    result.sources_read += 1
    if (stat.st_size, stat.st_mtime_ns) != (source["size_bytes"], source["mtime_ns"]):
        # The row stays with the older file; the changed file gets a new row.
        remedy = "run `gare-cache prepare`, then `gare-cache extract`"
        yield Fault(str(path), "the video has changed since it was encoded", remedy)
    elif file_digest(path) != table.outcomes[row].digest:
        problem = "the video has other content than when it was encoded, under the same date"
        yield Fault(str(path), problem, WRITE_AGAIN, ("video", row // table.unit_rows), (row,))
