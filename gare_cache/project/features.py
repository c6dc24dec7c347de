"""features.json: the record of the features that later stages read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.errors import CacheError, FingerprintMismatch
from gare_cache.files import read_json, write_json
from gare_cache.project.paths import Workspace


def write_features(
    workspace: Workspace,
    cache: FeatureCache,
    *,
    videos: Mapping[str, int],
    captions: Mapping[str, int | None],
) -> dict[str, Any]:
    """Write ``features.json``; the same features give the same bytes.

    Args:
        workspace: the project.
        cache: the features.
        videos: counts of the manifest's videos by result.
        captions: counts of its captions by result.

    Returns:
        The content of the file.
    """
    features = {
        "dataset": workspace.params.dataset.name,
        "folder": cache.folder.name,
        "encoder_id": cache.encoder_id,
        "extraction_id": cache.extraction_id,
        "content_digest": cache.content_digest,
        "dim": cache.layout.dim,
        "max_frames": cache.layout.max_frames,
        "videos": dict(videos),
        "captions": dict(captions),
    }
    write_json(workspace.features, features)
    workspace.stopped.unlink(missing_ok=True)
    return features


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
    write_json(workspace.stopped, content)
    workspace.features.unlink(missing_ok=True)


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
        raise CacheError(f"{workspace.features} does not exist; run `gare-cache extract` first")
    features = read_json(workspace.features)
    cache = open_cache(workspace.cache_root / features["folder"])
    for name, actual in (
        ("extraction_id", cache.extraction_id),
        ("content_digest", cache.content_digest),
    ):
        if actual != features[name]:
            raise FingerprintMismatch(
                f"{cache.folder} has {name} {actual[:12]}, but {workspace.features} was written "
                f"for {features[name][:12]}; run `gare-cache extract` again"
            )
    return cache, features
