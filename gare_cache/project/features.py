"""The features that a project's later stages read, and the record of them (features.json)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.errors import CacheError, FingerprintMismatch
from gare_cache.files import write_json
from gare_cache.project.paths import Workspace


def write_features(
    workspace: Workspace,
    cache: FeatureCache,
    *,
    videos: Mapping[str, int],
    captions: Mapping[str, int | None],
) -> dict[str, Any]:
    """Write ``features.json``: the same features give the same bytes.

    Args:
        workspace: the project.
        cache: the features.
        videos: what became of the manifest's videos.
        captions: what became of its captions.

    Returns:
        The content.
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
    return features


def open_features(workspace: Workspace) -> tuple[FeatureCache, dict[str, Any]]:
    """Open the cache that ``features.json`` names and check that it still is the same.

    Returns:
        The cache and the content of ``features.json``.

    Raises:
        CacheError: nothing was extracted, or the folder is gone.
        FingerprintMismatch: the folder holds other features than when it was extracted.
    """
    if not workspace.features.is_file():
        raise CacheError(f"{workspace.features} does not exist; run `gare-cache extract` first")
    features = json.loads(workspace.features.read_text(encoding="utf-8"))
    cache = open_cache(workspace.cache_root / features["folder"])
    for name, found in (
        ("extraction_id", cache.extraction_id),
        ("content_digest", cache.content_digest),
    ):
        if found != features[name]:
            raise FingerprintMismatch(
                f"{cache.folder} has {name} {found[:12]}, but {workspace.features} was written for "
                f"{features[name][:12]}; run `gare-cache extract` again"
            )
    return cache, features
