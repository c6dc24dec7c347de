"""Whether the parts of a cache agree: metadata, journal, row tables and the cache's manifest."""

from __future__ import annotations

from collections.abc import Iterator

from gare_cache.cache.exchange.identity import is_imported
from gare_cache.cache.faults import WRITE_AGAIN, Fault
from gare_cache.cache.group import METADATA, array_fault, unit_rows_on_disk
from gare_cache.cache.journal import DamagedLine
from gare_cache.cache.reader import FeatureCache
from gare_cache.cache.rows import ID
from gare_cache.cache.schema import FEATURES, KINDS, MANIFEST, TABLES, Kind
from gare_cache.cache.words import words_fault, words_metadata_fault, words_path
from gare_cache.errors import AnnotationError, UnreadableFile, counted
from gare_cache.files import read_parquet
from gare_cache.manifest.tables import MANIFEST_FILES, read_manifest

_EXTRACT = "run `gare-cache extract`"
_ID_CHARACTERS = 12


def inconsistencies(cache: FeatureCache) -> Iterator[Fault]:
    """Yield what the parts of a cache say against each other; chunks are not read."""
    yield from _name_faults(cache)
    yield from _metadata_faults(cache)
    for kind in KINDS:
        yield from _lost_records(cache, kind)
    yield from _manifest_faults(cache)


def journal_fault(cache: FeatureCache, damaged: DamagedLine) -> Fault:
    """Return a damaged line of a cache's journal as a fault."""
    file = f"{damaged.path.relative_to(cache.folder)}:{damaged.number}"
    return Fault(file, damaged.problem, WRITE_AGAIN)


def _name_faults(cache: FeatureCache) -> Iterator[Fault]:
    dataset, _, given = cache.folder.name.rpartition("-")
    expected = cache.extraction_id[:_ID_CHARACTERS]
    if dataset and len(given) == _ID_CHARACTERS and given != expected:
        yield Fault(
            str(cache.folder), f"it holds extraction {expected}", "rename the folder, or move it"
        )


def _metadata_faults(cache: FeatureCache) -> Iterator[Fault]:
    for kind in KINDS:
        unit_rows = unit_rows_on_disk(cache.folder, cache.layout, kind)
        for spec in cache.layout.arrays(kind):
            problem = array_fault(cache.folder, spec, unit_rows)
            if problem:
                file = f"{FEATURES}/{spec.name}/{METADATA}"
                yield Fault(file, problem, f"{_EXTRACT}, which writes it again")
    if cache.layout.words:
        table = cache.tables["text"]
        for unit in sorted(table.checksums):
            where = (cache.folder, cache.layout, table, unit)
            problem = None if words_fault(*where) else words_metadata_fault(*where)
            if problem:
                path = words_path(cache.folder, unit).parents[2] / METADATA
                file = str(path.relative_to(cache.folder))
                yield Fault(file, problem, WRITE_AGAIN, ("text", unit))


def _lost_records(cache: FeatureCache, kind: Kind) -> Iterator[Fault]:
    """Compare the states that the last finished extraction wrote with the journal's."""
    path = cache.folder / TABLES[kind]
    if not path.exists():
        return
    table = cache.tables[kind]
    states = read_parquet(path, ["status"])["status"].to_pylist()
    dropped = {record.unit for record in cache.records if record.dropped and record.kind == kind}
    lost = tuple(
        row
        for row, state in enumerate(states)
        if state != "pending"
        and table.status(row) == "pending"
        and row // table.unit_rows not in dropped
    )
    if lost:
        problem = f"the records of {counted(len(lost), 'row')} that were done are lost"
        units = sorted({row // table.unit_rows for row in lost})
        remedy = f"{_EXTRACT}, which encodes them again"
        yield Fault(f"journal ({kind} units {', '.join(map(str, units))})", problem, remedy)


def _manifest_faults(cache: FeatureCache) -> Iterator[Fault]:
    path = cache.folder / MANIFEST
    remedy = f"{_EXTRACT}, which writes it again"
    missing = [name for name in MANIFEST_FILES if not (path / name).is_file()]
    if missing:
        if all(cache.tables[kind].sources for kind in cache.layout.kinds) and _is_finished(cache):
            yield Fault(MANIFEST, f"{' and '.join(missing)} missing", remedy)
        return
    try:
        manifest = read_manifest(path)
    except (AnnotationError, UnreadableFile) as err:
        yield Fault(MANIFEST, str(err).split(";")[0], remedy)
        return
    if is_imported(cache):  # its rows are those of the files, not the manifest's
        return
    for kind, rows in zip(KINDS, manifest.encodable(), strict=True):
        known = cache.tables[kind].latest()
        absent = [row[ID[kind]] for row in rows if row[ID[kind]] not in known]
        if absent:
            noun = "video" if kind == "video" else "caption"
            problem = f"{counted(len(absent), noun, 'have')} no row (first: {absent[0]!r})"
            yield Fault(TABLES[kind], problem, _EXTRACT)


def _is_finished(cache: FeatureCache) -> bool:
    """Return whether an extraction ended: only then does a table say what became of its rows."""
    states = [
        read_parquet(cache.folder / TABLES[kind], ["status"])["status"].to_pylist()
        for kind in cache.layout.kinds
    ]
    return all("pending" not in column for column in states)
