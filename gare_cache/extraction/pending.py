"""Items of a manifest that a cache does not hold yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gare_cache.cache.rows import RowTable
from gare_cache.cache.schema import KINDS, Kind
from gare_cache.cache.writer import CacheWriter
from gare_cache.errors import CacheError, agreeing, counted
from gare_cache.manifest.tables import Manifest


def pending_sources(
    tables: Mapping[Kind, RowTable], manifest: Manifest
) -> dict[Kind, dict[int, dict[str, Any]]]:
    """Return the items of a manifest that are not done, by row; new items get their future rows."""
    pending: dict[Kind, dict[int, dict[str, Any]]] = {}
    for kind, sources in zip(KINDS, manifest.encodable(), strict=True):
        table = replace(tables[kind], sources=tables[kind].sources.copy())
        rows = table.allocate(sources)
        pending[kind] = {
            row: source
            for row, source in zip(rows, sources, strict=True)
            if table.status(row) == "pending"
        }
    return pending


def units_left(tables: Mapping[Kind, RowTable], manifest: Manifest) -> int:
    """Count the units with a video or caption that is not done."""
    pending = pending_sources(tables, manifest)
    return sum(len({row // tables[kind].unit_rows for row in pending[kind]}) for kind in KINDS)


def require_nothing_pending(writer: CacheWriter, manifest: Manifest) -> None:
    """Check that a cache holds every item of a manifest, so that it can be finalised.

    Raises:
        CacheError: units are left.
    """
    left = units_left(writer.tables, manifest)
    if left:
        raise CacheError(
            f"{counted(left, 'unit')} of {writer.folder} {agreeing(left, 'are')} not done; run "
            "their shards again, or `gare-cache "
            "extract` without --finalise, which does them and finalises"
        )
