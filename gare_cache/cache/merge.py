"""Join caches of one extraction that were written apart, such as those of shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache.chunks import read_chunk
from gare_cache.cache.identity import Owner, folder_name
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.rows import ID, SOURCE_COLUMNS
from gare_cache.cache.schema import WORDS, Kind, thumbnail_path
from gare_cache.cache.verify import verify_cache
from gare_cache.cache.words import read_unit_words
from gare_cache.cache.writer import CacheWriter, PendingUnit, open_writer
from gare_cache.errors import CacheError, counted

# The time of a file's last change differs between copies of it.
_COMPARED: dict[Kind, list[str]] = {
    kind: [name for name in schema.names if name not in ("path", "mtime_ns")]
    for kind, schema in SOURCE_COLUMNS.items()
}


@dataclass(frozen=True)
class Taken:
    """What was taken from one part.

    Attributes:
        part: its folder.
        rows: number of videos and captions taken.
        known: number of its videos and captions that the cache had already.
    """

    part: Path
    rows: int
    known: int


def merge(
    parts: Sequence[Path],
    root: Path,
    owner: Owner,
    *,
    on_unit: Callable[[int], None] = lambda _: None,
) -> tuple[Path, list[Taken]]:
    """Take from verified parts what a cache lacks, unit by unit, under the store's own protocol.

    The bytes are those of one extraction that wrote all units. A failed video is replaced if a part
    has its features. What was taken stays if a later part is refused; the same call goes on.

    Args:
        parts: cache folders of one extraction, whose rows name the same items.
        root: folder of caches, in which the joint one is made or completed.
        owner: the project that writes.
        on_unit: called with 1 for every unit of a part.

    Returns:
        The joint cache, and what came from each part.

    Raises:
        CacheError: a part is damaged, of another extraction, lists other items, or is the cache
            itself; or another process writes the cache.
        EnvironmentFailure: the file system refuses.
    """
    opened = [_verified(part) for part in parts]
    first = opened[0]
    dataset, identity = str(first.attributes["dataset"]), first.attributes["identity"]
    target = root / folder_name(dataset, identity)
    if any(part.folder.resolve() == target.resolve() for part in opened):
        raise CacheError(f"{target} is the cache that the parts are merged into; leave it out")
    for part in opened[1:]:
        _require_same_extraction(part, first)
    with open_writer(
        target,
        dataset=dataset,
        identity=identity,
        layout=first.layout,
        head_start=first.head_start(),
        owner=owner,
    ) as writer:
        taken = [_take(writer, part, on_unit) for part in opened]
    return target, taken


def num_units(parts: Sequence[Path]) -> int:
    """Return how often ``merge`` calls ``on_unit``."""
    tables = [table for part in parts for table in open_cache(part).tables.values()]
    return sum(len(table.checksums) for table in tables)


def _verified(part: Path) -> FeatureCache:
    faults = verify_cache(part, sources=False).faults
    if faults:
        raise CacheError(f"{part} is damaged: {faults[0]}")
    return open_cache(part)


def _require_same_extraction(part: FeatureCache, first: FeatureCache) -> None:
    if part.extraction_id != first.extraction_id:
        raise CacheError(
            f"{part.folder} is of the extraction {part.extraction_id[:12]}, {first.folder} of "
            f"{first.extraction_id[:12]}: encoder, sampling or versions differ; merge only parts "
            "of one extraction"
        )


def _take(writer: CacheWriter, part: FeatureCache, on_unit: Callable[[int], None]) -> Taken:
    rows = known = 0
    for kind in part.layout.kinds:
        sources = list(part.tables[kind].sources)
        _require_same_items(writer, part, kind, sources)
        for unit in sorted(part.tables[kind].checksums):
            done = part.tables[kind].done_rows(unit)
            wanted = [row for row in done if _lacks(writer, part, kind, row)]
            known += len(done) - len(wanted)
            rows += len(wanted)
            if wanted:
                _copy(writer, part, PendingUnit(kind, unit, tuple(wanted)))
            on_unit(1)
    return Taken(part.folder, rows, known)


def _lacks(writer: CacheWriter, part: FeatureCache, kind: Kind, row: int) -> bool:
    status = writer.tables[kind].status(row)
    return status == "pending" or (status == "failed" and part.tables[kind].status(row) == "ok")


def _require_same_items(
    writer: CacheWriter, part: FeatureCache, kind: Kind, sources: Sequence[dict[str, Any]]
) -> None:
    """Give an empty cache the rows of a part; check that another one has the same rows."""
    table = writer.tables[kind]
    if not len(table.sources):
        writer.allocate(kind, sources)
    known, listed = _compared(table.sources, kind), _compared(sources, kind)
    for row, (ours, theirs) in enumerate(zip(known, listed, strict=False)):
        if ours != theirs:
            raise CacheError(
                f"{part.folder} has {theirs[0]!r} in {kind} row {row}, and {writer.folder} has "
                f"{ours[0]!r} or another file or sentence of this id: the parts were made from "
                "different manifests; run `gare-cache prepare` on the same annotations everywhere"
            )
    if len(sources) != len(table.sources):
        raise CacheError(
            f"{part.folder} lists {counted(len(sources), f'{kind} item')}, and {writer.folder} "
            f"{len(table.sources):,}: the parts were made from different manifests"
        )


def _compared(sources: Sequence[dict[str, Any]], kind: Kind) -> Iterator[tuple[Any, ...]]:
    assert _COMPARED[kind][0] == ID[kind]
    return (tuple(source[name] for name in _COMPARED[kind]) for source in sources)


def _copy(writer: CacheWriter, part: FeatureCache, pending: PendingUnit) -> None:
    table = part.tables[pending.kind]
    places = np.asarray(pending.rows) - pending.unit * table.unit_rows
    values: dict[str, npt.NDArray[Any]] = {
        spec.name: read_chunk(part.folder, spec, pending.unit, unit_rows=table.unit_rows)[places]
        for spec in part.layout.arrays(pending.kind)
    }
    if pending.kind == "text" and part.layout.words:
        words = read_unit_words(part.folder, part.layout, table, pending.unit).of_row
        none = np.empty((0, part.layout.dim), "<f2")
        values[WORDS] = np.concatenate([none, *(words.get(row, none) for row in pending.rows)])
    pictures = {row: thumbnail_path(part.folder, row) for row in pending.rows}
    record = table.outcomes.last_write(np.asarray(pending.rows))
    writer.commit(
        pending,
        values,
        [table.outcomes[row] for row in pending.rows],
        thumbnails={
            row: path.read_bytes()
            for row, path in pictures.items()
            if pending.kind == "video" and path.is_file()
        },
        seconds={step: of for step, of in record.seconds.items() if step != "write"},
    )
