"""Which project a cache belongs to: it alone may give an item of the cache another file.

Several projects with one name of the data set and one extraction share a folder of the root as long
as their items agree. Where they differ, the later project gets a folder of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gare_cache.cache.identity import Owner, folder_name, owner_id, project_owner
from gare_cache.cache.rows import RowTable, read_sources
from gare_cache.cache.schema import KINDS, Kind
from gare_cache.errors import CacheError, counted
from gare_cache.files import read_json, write_record

OWNER_FILE = "owner.json"
_CHARACTERS_OF_ID = 8


def read_owner(folder: Path) -> Owner | None:
    """Return the owner of a cache; None for a cache without one.

    Raises:
        CacheError: the file is damaged.
    """
    path = folder / OWNER_FILE
    if not path.exists():
        return None
    try:
        owner = read_json(path)
        return Owner(str(owner["id"]), str(owner["project"]))
    except (ValueError, TypeError, KeyError) as err:
        raise CacheError(
            f"{path} is damaged ({err}); delete it, and the project that extracts next owns the "
            "cache"
        ) from err


def claim(folder: Path, owner: Owner) -> bool:
    """Take a cache without an owner, and return whether the cache belongs to the project."""
    current = read_owner(folder)
    if current is None:
        write_record(folder / OWNER_FILE, asdict(owner))
    return current is None or current.id == owner.id


def folder_for(
    root: Path,
    dataset: str,
    identity: dict[str, Any],
    project: Path,
    sources: Mapping[Kind, Sequence[dict[str, Any]]],
) -> tuple[Path, str]:
    """Return the folder of a project's features, and a note if it is not the usual one.

    Args:
        root: folder of all caches.
        dataset: name of the data set.
        identity: the extraction identity.
        project: the project's folder, which gets its id here only if it needs a cache of its own.
        sources: its items by kind, with the columns of ``rows.SOURCE_COLUMNS``.

    Raises:
        CacheError: a table of the shared cache, or the file of its owner, is damaged.
    """
    shared = root / folder_name(dataset, identity)
    current = read_owner(shared)
    known = owner_id(project)
    if known and _own_folder(root, dataset, identity, known).is_dir():
        return _own_folder(root, dataset, identity, known), ""
    if current is None or current.id == known:
        return shared, ""
    for kind in KINDS:
        table = RowTable(kind, 1, read_sources(shared, kind))
        differing = table.differing(sources[kind])
        if differing:
            own = _own_folder(root, dataset, identity, project_owner(project).id)
            return own, f"note: {_reason(shared, current, kind, differing)}; {own} is used"
    return shared, ""


def _own_folder(root: Path, dataset: str, identity: dict[str, Any], id_: str) -> Path:
    return root / folder_name(f"{dataset}-{id_[:_CHARACTERS_OF_ID]}", identity)


def refuse_differing(folder: Path, table: RowTable, sources: Sequence[dict[str, Any]]) -> None:
    """Check that items agree with those of a cache of another project.

    Raises:
        CacheError: an item is another file or sentence there.
    """
    differing = table.differing(sources)
    owner = read_owner(folder)
    if differing and owner is not None:
        raise CacheError(
            f"{_reason(folder, owner, table.kind, differing)}; run the command again, which uses a "
            "folder of this project's own"
        )


def _reason(folder: Path, owner: Owner, kind: Kind, differing: Sequence[str]) -> str:
    noun, other = ("video", "file") if kind == "video" else ("caption", "sentence")
    return (
        f"{folder} belongs to the project {owner.project}, in which "
        f"{counted(len(differing), noun, 'have')} another {other} (first: {differing[0]!r})"
    )
