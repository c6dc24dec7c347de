"""Stage prepare: annotations + video folders -> manifest."""

from __future__ import annotations

from typing import Any

from gare_cache.annotations.readers import read_annotations
from gare_cache.config import resolve
from gare_cache.files import write_json
from gare_cache.manifest import build_manifest
from gare_cache.stages.progress import say
from gare_cache.stages.workspace import Workspace

_MISSING_SHOWN = 5


def prepare(workspace: Workspace) -> dict[str, Any]:
    """Write ``manifest/{videos,captions}.parquet`` and ``manifest/summary.json``.

    Returns:
        The summary: counts per split, and the ids of missing videos.

    Raises:
        AnnotationError: the annotations or video folders are faulty.
        ConfigError: an unknown reader.
    """
    settings = workspace.params.dataset
    manifest = build_manifest(
        read_annotations(settings.reader, resolve(workspace.project, settings.annotations)),
        [resolve(workspace.project, root) for root in settings.video_roots],
        val_fraction=settings.val_fraction,
        test_fraction=settings.test_fraction,
    )
    summary = manifest.summary()
    manifest.write(workspace.manifest)
    write_json(workspace.manifest / "summary.json", summary)
    for split, counts in summary["splits"].items():
        say(f"{split}: {counts['videos']:,} videos, {counts['captions']:,} captions")
    missing = summary["missing"]
    if not settings.video_roots:
        say("dataset.video_roots is empty: features come from `gare-cache import-features`")
    elif missing:
        shown = ", ".join(missing[:_MISSING_SHOWN])
        more = "" if len(missing) <= _MISSING_SHOWN else f", ... (all in {workspace.manifest})"
        say(f"warning: no file for {len(missing):,} videos: {shown}{more}")
    return summary
