"""What the sizes of a cache's files tell at once: chunks that cannot be what the journal says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gare_cache.cache.chunks import DROP_COMMAND, size_fault
from gare_cache.cache.rows import RowTable
from gare_cache.cache.schema import Kind, Layout
from gare_cache.cache.words import words_fault
from gare_cache.errors import CacheError


def refuse_size_faults(folder: Path, layout: Layout, tables: Mapping[Kind, RowTable]) -> None:
    """Refuse a cache whose chunk files contradict its journal.

    Raises:
        CacheError: with the number of such chunks and the first of them.
    """
    faults = list(_size_faults(folder, layout, tables))
    if faults:
        raise CacheError(
            f"{folder} is damaged: {faults[0]} ({len(faults)} such chunks); run "
            f"`{DROP_COMMAND}`, then `gare-cache extract` to make their units anew"
        )


def _size_faults(folder: Path, layout: Layout, tables: Mapping[Kind, RowTable]) -> Iterator[str]:
    for kind, table in tables.items():
        for unit in sorted(table.checksums):
            found = [
                size_fault(folder, spec, unit, unit_rows=table.unit_rows)
                for spec in layout.arrays(kind)
            ]
            if kind == "text" and layout.words:
                found.append(words_fault(folder, layout, table, unit))
            yield from (fault for fault in found if fault is not None)
