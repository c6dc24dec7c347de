"""Fast check: chunk files whose size contradicts the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gare_cache.cache.chunks import DROP_COMMAND, size_fault
from gare_cache.cache.rows import RowTable
from gare_cache.cache.schema import Kind, Layout
from gare_cache.cache.words import words_fault
from gare_cache.errors import CacheError


def check_chunk_sizes(folder: Path, layout: Layout, tables: Mapping[Kind, RowTable]) -> None:
    """Check the size of every chunk file that the journal records.

    Raises:
        CacheError: a size is wrong; the message has the first fault and their number.
    """
    faults = list(_size_faults(folder, layout, tables))
    if faults:
        raise CacheError(
            f"{folder} is damaged: {faults[0]} ({len(faults)} such chunks); run "
            f"`{DROP_COMMAND}`, then `gare-cache extract` to write their units again"
        )


def _size_faults(folder: Path, layout: Layout, tables: Mapping[Kind, RowTable]) -> Iterator[str]:
    for kind, table in tables.items():
        for unit in sorted(table.checksums):
            faults = [
                size_fault(folder, spec, unit, unit_rows=table.unit_rows)
                for spec in layout.arrays(kind)
            ]
            if kind == "text" and layout.words:
                faults.append(words_fault(folder, layout, table, unit))
            yield from filter(None, faults)
