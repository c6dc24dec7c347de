"""Cache folders under a root: list, clean up, pack into one file and unpack."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from gare_cache.cache.disk import environment_errors
from gare_cache.cache.identity import ROOT_VARIABLE
from gare_cache.cache.lock import refuse_while_written, writers
from gare_cache.cache.owner import OWNER_FILE, read_owner
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.schema import (
    FEATURES,
    HEAD_START,
    JOURNAL,
    MANIFEST,
    TABLES,
    THUMBNAILS,
)
from gare_cache.cache.verify import verify_cache
from gare_cache.cache.writer import partial_files
from gare_cache.errors import CacheError, EnvironmentFailure
from gare_cache.files import PARTIAL_SUFFIX, replacing

_CONTENT = frozenset([FEATURES, JOURNAL, HEAD_START, MANIFEST, THUMBNAILS, *TABLES.values()])
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*-[0-9a-f]{12}")

MERGING = "merging-"  # begins the names of folders in a root in which parts are unpacked


@dataclass(frozen=True)
class FolderSummary:
    """What the list of caches shows of one folder.

    Attributes:
        name: the folder's name.
        dataset: name of the data set.
        content: what it holds, for example ``encoder 0123456789ab``.
        sampling: sampling settings in use, each as ``name=value``.
        counts: number of ok, failed and pending rows by kind.
        num_bytes: total size of its files.
        state: ``complete``, ``unfinished``, ``being written by 123`` or an error message.
    """

    name: str
    dataset: str = ""
    content: str = ""
    sampling: str = ""
    counts: str = ""
    num_bytes: int = 0
    state: str = ""


def cache_folders(root: Path) -> list[Path]:
    """List the folders under a root that hold a cache, sorted by name."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if (path / FEATURES).is_dir())


def folder_bytes(folder: Path) -> int:
    """Return the total size of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def summarise(folder: Path) -> FolderSummary:
    """Summarise a cache folder; the state of an unreadable one says why."""
    size = folder_bytes(folder)
    try:
        cache = open_cache(folder)
    except CacheError as err:
        return FolderSummary(name=folder.name, num_bytes=size, state=f"unreadable: {err}")
    active = writers(folder)
    done = "complete" if is_complete(cache) else "unfinished"
    layout = cache.layout
    counts = {kind: cache.counts(kind) for kind in layout.kinds}
    sampling = cache.attributes["identity"].get("sampling", {})
    return FolderSummary(
        name=folder.name,
        dataset=str(cache.attributes["dataset"]),
        content=f"frames of {layout.height} x {layout.width} px"
        if layout.height
        else f"encoder {cache.encoder_id[:12]}",
        sampling=" ".join(f"{key}={value}" for key, value in sorted(sampling.items()) if value),
        counts="; ".join(
            f"{kind} " + " ".join(f"{n:,} {state}" for state, n in counts[kind].items() if n)
            for kind in layout.kinds
        ),
        num_bytes=size,
        state=f"being written by {', '.join(active)}" if active else done,
    )


def is_complete(cache: FeatureCache) -> bool:
    """Return whether all kinds that it holds have rows and none is pending."""
    counts = [cache.counts(kind) for kind in cache.layout.kinds]
    return all(sum(count.values()) > 0 and count["pending"] == 0 for count in counts)


def of_other_projects(root: Path, owner_id: str) -> dict[Path, str]:
    """Return the caches under a root that belong to other projects, each with its project."""
    owners = {folder: read_owner(folder) for folder in cache_folders(root)}
    return {f: owner.project for f, owner in owners.items() if owner and owner.id != owner_id}


def leftovers(root: Path, named: set[str]) -> list[tuple[Path, str]]:
    """List what can be removed under a root, with the reason for each.

    Args:
        root: folder of caches.
        named: names of the folders that a features.json refers to.

    Returns:
        Cache folders that are not named, interrupted unpackings and merges, and temporary files of
        killed writers; nothing in a folder that is being written.
    """
    removable = []
    for folder in cache_folders(root):
        if writers(folder):
            continue
        if folder.name.endswith(PARTIAL_SUFFIX):
            removable.append((folder, "an unpacking that was interrupted"))
        elif folder.name not in named:
            removable.append((folder, "no features.json names it"))
        else:
            removable += [(path, "a killed writer left it") for path in partial_files(folder)]
    unpacked = sorted(root.glob(f"{MERGING}*"))
    return removable + [(path, "parts of a merge, unless one is at work") for path in unpacked]


def remove(path: Path) -> int:
    """Remove a file or a folder and return the bytes freed.

    Raises:
        CacheError: it is a cache that is being written.
        EnvironmentFailure: the file system refuses.
    """
    with environment_errors(path):
        if not path.is_dir():
            size = path.stat().st_size
            path.unlink()
            return size
        refuse_while_written(path)
        size = folder_bytes(path)
        shutil.rmtree(path)
        return size


def pack(folder: Path, file: Path, *, part: bool = False) -> None:
    """Write a cache into one uncompressed tar; the same cache gives the same bytes.

    Args:
        folder: the cache folder.
        file: the tar file to create; must not exist.
        part: also pack an unfinished cache, such as that of a shard, for ``merge``.

    Raises:
        CacheError: the cache is unfinished, damaged or being written, or ``file`` exists.
        EnvironmentFailure: the file system refuses.
    """
    if file.exists():
        raise CacheError(f"{file} exists; choose another name, or remove it first")
    refuse_while_written(folder)
    cache = open_cache(folder)
    if not part and not is_complete(cache):
        raise CacheError(
            f"{folder} is not finished; run `gare-cache extract`, then pack it, or pack it with "
            "--part for `gare-cache cache merge`"
        )
    faults = verify_cache(folder, sources=False).faults
    if faults:
        raise CacheError(f"{folder} is damaged: {faults[0]}")
    with replacing(file) as partial, partial.open("wb") as stream:
        _write_tar(stream, folder)


def _write_tar(stream: IO[bytes], folder: Path) -> None:
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(_packed_files(folder)):
            member = tarfile.TarInfo(str(PurePosixPath(folder.name) / path.as_posix()))
            member.size = (folder / path).stat().st_size
            with (folder / path).open("rb") as content:
                tar.addfile(member, content)


def _packed_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        of_this_machine = len(relative.parts) == 1 and (
            relative.name == OWNER_FILE or relative.name.split(".")[0] == "lock"
        )
        if path.is_file() and not of_this_machine and not path.name.endswith(PARTIAL_SUFFIX):
            yield relative


def unpack(file: Path, root: Path) -> Path:
    """Unpack and verify a packed cache; it appears in the root completely or not at all.

    Args:
        file: tar file made by ``pack``.
        root: folder of caches.

    Returns:
        The new folder.

    Raises:
        CacheError: it is not a packed cache, names a path outside its folder or another file than
            those of a cache, announces more than it holds, is damaged, or its folder exists.
        EnvironmentFailure: the file system refuses, or has too little room.
    """
    try:
        with tarfile.open(file, "r:") as tar:
            members = tar.getmembers()
            name = _only_folder(file, members)
            _check_sizes(file, root, members)
            target = root / name
            if target.exists():
                raise CacheError(f"{target} exists and is not overwritten; move it away first")
            partial = root / f"{name}{PARTIAL_SUFFIX}"
            with environment_errors(root):
                shutil.rmtree(partial, ignore_errors=True)
                try:
                    _write_members(tar, members, partial)
                    _refuse_faults(file, partial, name)
                    partial.rename(target)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    except tarfile.TarError as err:
        raise CacheError(
            f"{file} is not a packed cache ({err}); make one with `gare-cache cache pack`"
        ) from err
    return target


def _only_folder(file: Path, members: list[tarfile.TarInfo]) -> str:
    names, seen = set(), set()
    for member in members:
        path = PurePosixPath(member.name)
        outside = path.is_absolute() or ".." in path.parts or len(path.parts) < 2
        # A sparse member is written as large as it says, however little the archive holds of it.
        plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
        if outside or not plain or path in seen or path.parts[1] not in _CONTENT:
            raise CacheError(
                f"{file} is refused: member {member.name!r} is not a distinct, plain file of a "
                "cache; make it with `gare-cache cache pack`"
            )
        seen.add(path)
        names.add(path.parts[0])
    if len(names) != 1 or not _FOLDER_NAME.fullmatch(min(names)):
        raise CacheError(
            f"{file} is refused: it holds {', '.join(sorted(names)) or 'nothing'} instead of one "
            "cache folder; make it with `gare-cache cache pack`"
        )
    return min(names)


def _check_sizes(file: Path, root: Path, members: list[tarfile.TarInfo]) -> None:
    """Check that an archive holds what it announces, and that the disk has room for it."""
    announced, held = sum(member.size for member in members), file.stat().st_size
    if announced > held:
        raise CacheError(
            f"{file} is damaged: it announces {announced:,} bytes and holds {held:,}; copy it again"
        )
    place = next(path for path in (root, *root.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if announced > free:
        raise EnvironmentFailure(
            f"{file} needs {announced:,} bytes, and {place} has {free:,} free; make room, or set "
            f"${ROOT_VARIABLE} to another disk"
        )


def _write_members(tar: tarfile.TarFile, members: list[tarfile.TarInfo], folder: Path) -> None:
    for member in members:
        path = folder.joinpath(*PurePosixPath(member.name).parts[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        if content is not None:
            with path.open("xb") as stream:
                shutil.copyfileobj(content, stream, 2**20)


def _refuse_faults(file: Path, folder: Path, name: str) -> None:
    faults = verify_cache(folder, sources=False).faults
    if faults:
        raise CacheError(f"{file} is damaged and was not unpacked: {faults[0]}")
    cache = open_cache(folder)
    dataset, id_ = str(cache.attributes["dataset"]), cache.extraction_id[:12]
    if not (name.startswith(f"{dataset}-") and name.endswith(f"-{id_}")):
        raise CacheError(f"{file} is refused: {name} is not the name of the extraction inside it")
