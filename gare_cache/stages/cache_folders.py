"""Stages of `gare-cache cache`: list, clean, pack, unpack and merge caches."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from gare_cache.cache.coverage import NOUNS
from gare_cache.cache.disk import environment_errors
from gare_cache.cache.faults import frame_errors
from gare_cache.cache.folders import (
    MERGING,
    cache_folders,
    folder_bytes,
    leftovers,
    of_other_projects,
    pack,
    remove,
    summarise,
    unpack,
)
from gare_cache.cache.identity import cache_root, original_project, owner_id, project_owner
from gare_cache.cache.merge import merge, num_units
from gare_cache.cache.reader import open_cache
from gare_cache.cache.schema import KINDS
from gare_cache.errors import CacheError, counted
from gare_cache.files import read_json
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import progress

_NAMING_FILES = ("features.json", "extraction_stopped.json", "frames.json")
_MEGABYTE = 2**20


def find_folder(workspace: Workspace, name: str | None) -> Path:
    """Return a cache folder by its name or path; None takes that of ``features.json``.

    Raises:
        CacheError: there is no such folder; the message lists the existing ones.
    """
    if name is None:
        named = next((f for f in (workspace.features, workspace.stopped) if f.is_file()), None)
        name = read_json(named)["folder"] if named else None
    candidates = [] if name is None else [workspace.cache_root / name, Path(name)]
    for folder in candidates:
        if folder.is_dir():
            return folder
    present = ", ".join(folder.name for folder in cache_folders(workspace.cache_root)) or "none"
    wanted = f"no cache {name!r}" if name else f"{workspace.features} does not exist"
    raise CacheError(
        f"{wanted}; name one of those under {workspace.cache_root} ({present}), or run "
        "`gare-cache extract`"
    )


def find_folders(workspace: Workspace, name: str | None) -> list[Path]:
    """Return the folder of a name; for None those of features and of frames, as far as named.

    Raises:
        CacheError: as ``find_folder``.
    """
    if name is not None or not workspace.frames.is_file():
        return [find_folder(workspace, name)]
    of_frames = str(read_json(workspace.frames)["folder"])
    with frame_errors(workspace.cache_root / of_frames):
        folders = [find_folder(workspace, of_frames)]
    if workspace.features.is_file() or workspace.stopped.is_file():
        folders.insert(0, find_folder(workspace, None))
    return folders


def list_caches(project: Path) -> Iterator[str]:
    """Yield a paragraph for every cache under the root.

    Args:
        project: folder of params.yaml.
    """
    root = cache_root(project)
    folders = cache_folders(root)
    yield f"caches under {root}: {len(folders)}"
    for folder in folders:
        summary = summarise(folder)
        yield f"{summary.name}  {summary.num_bytes / _MEGABYTE:,.1f} MB  {summary.state}"
        if summary.dataset:
            yield f"    data set {summary.dataset}, {summary.content}"
            yield f"    {summary.counts}"
            yield f"    {summary.sampling}"


def collect_garbage(project: Path, outputs: Sequence[Path], *, remove_them: bool) -> Iterator[str]:
    """List unused caches and leftover files, and remove them if wanted.

    A cache is kept if it is named by a features.json below the project's folder or in one of
    ``outputs``, if it belongs to another project, or if it is being written.

    Args:
        project: folder of params.yaml.
        outputs: further folders with a features.json.
        remove_them: False only lists them.

    Raises:
        CacheError: a features.json cannot be read, so that it is unknown which caches are used.
        EnvironmentFailure: the disk is full or access is denied.
    """
    root = cache_root(project)
    original = original_project(project)
    others = of_other_projects(root, owner_id(original))
    named = {folder.name for folder in others} | _named(original, root, outputs)
    unused = leftovers(root, named)
    for folder, place in others.items():
        yield f"{folder} is kept: it belongs to the project {place}"
    freed = 0
    for path, reason in unused:
        size = remove(path) if remove_them else _size(path)
        freed += size
        yield f"{path}  {size / _MEGABYTE:,.1f} MB  {reason}"
    if remove_them or not unused:
        yield f"{freed / _MEGABYTE:,.1f} MB freed under {root}"
    else:
        yield (
            f"{freed / _MEGABYTE:,.1f} MB would be freed under {root}, nothing was removed; other "
            "projects may share this root: give --yes to remove all of the above"
        )


def pack_cache(workspace: Workspace, name: str, file: Path, *, part: bool = False) -> None:
    """Pack a cache, given as for ``find_folder``, into one file; see ``folders.pack``."""
    pack(find_folder(workspace, name), file, part=part)


def unpack_cache(project: Path, file: Path) -> Path:
    """Unpack a cache into the project's root of caches and return its folder."""
    return unpack(file, cache_root(project))


def merge_caches(project: Path, parts: Sequence[Path]) -> Iterator[str]:
    """Join caches of one extraction in the project's root of caches, and say what came of each.

    Args:
        project: folder of params.yaml.
        parts: cache folders, or files of ``pack_cache``, which are unpacked and verified first.

    Raises:
        CacheError, EnvironmentFailure: as ``unpack`` and ``merge``.
    """
    root = cache_root(project)
    missing = next((part for part in parts if not part.exists()), None)
    if missing is not None:
        raise CacheError(f"there is no {missing}; give cache folders or files of `cache pack`")
    with environment_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=MERGING, dir=root) as temporary:
        folders = [
            part if part.is_dir() else unpack(part, Path(temporary) / str(number))
            for number, part in enumerate(parts)
        ]
        with progress("merge units", num_units(folders)) as advance:
            owner = project_owner(original_project(project))
            target, taken = merge(folders, root, owner, on_unit=advance)
    for part, of in zip(parts, taken, strict=True):
        yield f"{part}: {counted(of.rows, 'item')} taken, {of.known:,} known already"
    left = {kind: open_cache(target).counts(kind)["pending"] for kind in KINDS}
    if any(left.values()):
        videos, captions = (counted(left[kind], NOUNS[kind]) for kind in KINDS)
        yield f"{target}: {videos} and {captions} are still missing"
    else:
        yield f"{target}: nothing is missing; run `gare-cache extract --finalise`"


def _named(project: Path, root: Path, outputs: Sequence[Path]) -> set[str]:
    files = [path for folder in outputs for path in _naming_files(folder)]
    for folder, subfolders, names in os.walk(project):
        subfolders[:] = [name for name in subfolders if Path(folder) / name != root]
        files += [Path(folder) / name for name in _NAMING_FILES if name in names]
    named = set()
    for file in files:
        try:
            named.add(str(read_json(file)["folder"]))
        except (ValueError, KeyError, TypeError, FileNotFoundError) as err:
            raise CacheError(
                f"{file} does not name a cache folder ({err}); repair or remove it first, so that "
                "no cache in use is removed"
            ) from err
    return named


def _naming_files(folder: Path) -> list[Path]:
    """Return the files of an outputs folder that name a cache; it must have one."""
    found = [folder / name for name in _NAMING_FILES if (folder / name).is_file()]
    return found or [folder / _NAMING_FILES[0]]


def _size(path: Path) -> int:
    return folder_bytes(path) if path.is_dir() else path.stat().st_size
