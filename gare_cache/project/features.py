"""features.json and frames.json: the records of the caches that later stages read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gare_cache.cache.faults import FRAMES_COMMAND, Fault, frame_errors
from gare_cache.cache.owner import folder_for
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.schema import KINDS, Kind
from gare_cache.errors import CacheError, FingerprintMismatch
from gare_cache.files import read_json, write_record
from gare_cache.project.paths import ENCODER_CONFIG, Workspace
from gare_cache.project.progress import say


def cache_folder(
    workspace: Workspace,
    identity: dict[str, Any],
    sources: Mapping[Kind, Sequence[dict[str, Any]]],
) -> Path:
    """Return the folder for a project's features, and say so if it is not the usual one.

    Args:
        workspace: the project.
        identity: the extraction identity.
        sources: its items by kind, with the columns of ``rows.SOURCE_COLUMNS``.

    Raises:
        CacheError: the tables of a cache of another project are damaged.
    """
    dataset = workspace.params.dataset.name
    folder, note = folder_for(workspace.cache_root, dataset, identity, workspace.original, sources)
    if note:
        say(note)
    return folder


def write_features(
    workspace: Workspace,
    cache: FeatureCache,
    *,
    videos: Mapping[str, int],
    captions: Mapping[str, int | Mapping[str, int] | None],
) -> dict[str, Any]:
    """Write ``features.json``; the same features give the same bytes.

    Args:
        workspace: the project.
        cache: the features.
        videos: counts of the manifest's videos by result.
        captions: counts of its captions by result; ``cut``, of those longer than the context, by
            split.

    Returns:
        The content of the file.
    """
    features = {
        "dataset": workspace.params.dataset.name,
        "folder": cache.folder.name,
        "encoder_id": cache.encoder_id,
        "extraction_id": cache.extraction_id,
        "content_digest": cache.content_digest,
        "rows": {kind: len(cache.tables[kind].sources) for kind in KINDS},
        "dim": cache.layout.dim,
        "max_frames": cache.layout.max_frames,
        "videos": dict(videos),
        "captions": dict(captions),
    }
    write_record(workspace.features, features)
    workspace.stopped.unlink(missing_ok=True)
    return features


def write_frames(
    workspace: Workspace, cache: FeatureCache, *, videos: Mapping[str, int]
) -> dict[str, Any]:
    """Write ``frames.json``, the record of a cache of frames, and return its content.

    Args:
        workspace: the project.
        cache: the frames.
        videos: counts of the manifest's videos by result.
    """
    frames = {
        "dataset": workspace.params.dataset.name,
        "folder": cache.folder.name,
        "extraction_id": cache.extraction_id,
        "content_digest": cache.content_digest,
        "rows": {"video": len(cache.tables["video"].sources)},
        "max_frames": cache.layout.max_frames,
        "size": [cache.layout.height, cache.layout.width],
        "videos": dict(videos),
    }
    write_record(workspace.frames, frames)
    return frames


def open_frames(workspace: Workspace, extraction_id: str) -> FeatureCache:
    """Open the cache that ``frames.json`` names and check that it has not changed.

    Args:
        workspace: the project.
        extraction_id: of the frames that the project's settings describe.

    Raises:
        CacheError: there are no frames of these settings, or the folder is gone.
        FingerprintMismatch: the folder's frames are not those that were extracted.
    """
    if not workspace.frames.is_file():
        raise CacheError(f"{workspace.frames} does not exist; run `{FRAMES_COMMAND}` first")
    frames = read_json(workspace.frames)
    if frames["extraction_id"] != extraction_id:
        raise CacheError(
            f"{workspace.frames} names frames of other settings (encoder input, sampler, "
            f"extract.max_frames_cached or decoder); run `{FRAMES_COMMAND}`"
        )
    folder = workspace.cache_root / frames["folder"]
    with frame_errors(folder):
        cache = open_cache(folder)
        if difference := _difference(cache, frames):
            raise _changed(cache, workspace.frames, difference)
    return cache


def write_stopped(
    workspace: Workspace, folder: Path, message: str, failed: Mapping[str, str]
) -> None:
    """Record that too many videos failed, in place of ``features.json``.

    Args:
        workspace: the project.
        folder: of the cache, which keeps what could be encoded.
        message: what to tell the user.
        failed: id of each failed video -> where it is named, and the reason.
    """
    content = {"folder": folder.name, "message": message, "failed": dict(failed)}
    write_record(workspace.stopped, content)
    workspace.features.unlink(missing_ok=True)


def captions_cut(features: Mapping[str, Any]) -> Mapping[str, int] | None:
    """Return the captions longer than the encoder's context by split; None if not counted so.

    Imports do not count them, and earlier versions recorded their sum alone.
    """
    cut = features["captions"].get("cut")
    return cut if isinstance(cut, Mapping) else None


def stopped_extraction(workspace: Workspace) -> dict[str, Any] | None:
    """Return what ``write_stopped`` wrote if the last extraction stopped, else None."""
    if workspace.features.is_file() or not workspace.stopped.is_file():
        return None
    content: dict[str, Any] = read_json(workspace.stopped)
    return content


def open_features(workspace: Workspace) -> tuple[FeatureCache, dict[str, Any]]:
    """Open the cache that ``features.json`` names and check that it has not changed.

    Returns:
        The cache and the content of ``features.json``.

    Raises:
        CacheError: nothing was extracted, too many videos failed, or the folder is gone.
        FingerprintMismatch: the folder's features are not those that were extracted.
    """
    if stopped := stopped_extraction(workspace):
        raise CacheError(f"the last extraction stopped: {stopped['message']}")
    if not workspace.features.is_file():
        own = (workspace.encoder / ENCODER_CONFIG).is_file()
        command = f"extract --encoder-from {workspace.outputs}" if own else "extract"
        raise CacheError(f"{workspace.features} does not exist; run `gare-cache {command}` first")
    features = read_json(workspace.features)
    cache = open_cache(workspace.cache_root / features["folder"])
    if difference := _difference(cache, features):
        raise _changed(cache, workspace.features, difference)
    return cache, features


def _changed(cache: FeatureCache, record: Path, difference: tuple[str, str]) -> FingerprintMismatch:
    return FingerprintMismatch(
        f"{cache.folder} has {difference[0]}, but {record} was written for {difference[1]}; run "
        "`gare-cache extract` again"
    )


def features_faults(workspace: Workspace, cache: FeatureCache) -> Iterator[Fault]:
    """Yield what ``features.json`` and ``frames.json`` say against the cache that they name."""
    for path in (workspace.features, workspace.frames):
        record = read_json(path) if path.is_file() else {}
        if record.get("folder") == cache.folder.name and (difference := _difference(cache, record)):
            problem = f"the cache has {difference[0]}, it was written for {difference[1]}"
            yield Fault(str(path), problem, "run `gare-cache extract` again")


def _difference(cache: FeatureCache, features: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what a cache has and what ``features.json`` says, for the first that differs."""
    if cache.extraction_id != features["extraction_id"]:
        return _named("extraction_id", cache.extraction_id, features["extraction_id"])
    rows = features.get("rows", {})
    for kind, expected in rows.items():
        held = len(cache.tables[kind].sources)
        if held < expected:
            return f"{held:,} {kind} rows", f"{expected:,}"
    digest = cache.digest_of(rows)
    if digest != features["content_digest"]:
        return _named("content_digest", digest, features["content_digest"])
    return None


def _named(name: str, actual: str, expected: str) -> tuple[str, str]:
    return f"{name} {actual[:12]}", expected[:12]
