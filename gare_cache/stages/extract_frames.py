"""Stage extract --frames: keep the resized frames of the videos, to train encoders on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gare_cache.cache.disk import environment_errors
from gare_cache.cache.faults import FRAMES_COMMAND, frame_errors
from gare_cache.cache.lock import Shard
from gare_cache.cache.reader import open_cache
from gare_cache.cache.schema import KINDS, MANIFEST, Layout
from gare_cache.cache.writer import open_writer
from gare_cache.encoders.preprocessing import Preprocessing
from gare_cache.errors import ConfigError, counted
from gare_cache.extraction.estimate import bytes_to_write, disk_lines, tables_of
from gare_cache.extraction.frame_cache import (
    frames_identity,
    frames_layout,
    frames_manifest,
    project_preprocessing,
)
from gare_cache.extraction.pending import pending_sources, require_nothing_pending
from gare_cache.extraction.write import write_all_frames
from gare_cache.manifest.tables import Manifest
from gare_cache.project.features import cache_folder, write_frames
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import say
from gare_cache.stages.extract import (
    failures_of,
    say_what_is_left,
    stop_after,
    stopping_error,
    video_counts,
)


def extract_frames(
    workspace: Workspace,
    *,
    workers: int = 0,
    shard: Shard | None = None,
    finalise: bool = False,
    retry_failed: bool = False,
    max_failures: int | None = None,
) -> dict[str, Any] | None:
    """Decode the manifest's videos that the cache of frames lacks, then write ``frames.json``.

    Args:
        workspace: the project.
        workers: number of decoding processes; 0 takes one per processor, at most 16.
        shard: decode only the units of this shard, and write no frames.json.
        finalise: decode nothing; raise an error if units are left.
        retry_failed: retry the videos that failed in earlier runs.
        max_failures: stop once more videos than this have failed in this run; None never stops.

    Returns:
        The content of ``frames.json``; None for a shard.

    Raises:
        ConfigError: no encoder is set, it resizes frames on the device, or ``finalise`` is combined
            with a flag for decoding.
        DecodeError, CacheError, EnvironmentFailure: as ``extract``.
    """
    if finalise and (shard or retry_failed):
        raise ConfigError("--finalise decodes nothing; leave out --shard and --retry-failed")
    manifest, preprocessing, folder = _described(workspace)
    settings = workspace.params.extract
    layout = frames_layout(settings, preprocessing)
    for line in _estimate(folder, layout, manifest):
        say(line)
    with (
        frame_errors(folder),
        open_writer(
            folder,
            dataset=workspace.params.dataset.name,
            identity=frames_identity(settings, preprocessing),
            layout=layout,
            head_start={},
            owner=workspace.owner,
            shard=shard,
            retry_failed=retry_failed,
            on_commit=None if max_failures is None else stop_after(max_failures),
        ) as writer,
    ):
        if finalise:
            require_nothing_pending(writer, manifest)
        else:
            write_all_frames(writer, preprocessing, manifest, settings, workers=workers)
        if shard is None and writer.owned:
            with environment_errors(folder):
                manifest.write(folder / MANIFEST)
    with frame_errors(folder):
        cache = open_cache(folder)
    if shard:
        say_what_is_left(cache, manifest, shard, FRAMES_COMMAND)
        return None
    failed = failures_of(cache, manifest)
    error = stopping_error(
        workspace, manifest, failed, done="decoded", fate="no encoder can be trained on them"
    )
    if error is not None:
        raise error
    with environment_errors(workspace.outputs):
        counts = video_counts(manifest, failed, done="decoded")
        return write_frames(workspace, cache, videos=counts)


def estimate_frames(workspace: Workspace) -> Iterator[str]:
    """Yield lines that say what ``extract_frames`` would write; writes nothing.

    Raises:
        ConfigError, CacheError: as ``extract_frames``.
    """
    manifest, preprocessing, folder = _described(workspace)
    yield from _estimate(folder, frames_layout(workspace.params.extract, preprocessing), manifest)


def _described(workspace: Workspace) -> tuple[Manifest, Preprocessing, Path]:
    """Return the videos, how their frames are resized, and the folder of the frames."""
    manifest = frames_manifest(workspace)
    preprocessing = project_preprocessing(workspace, manifest)
    identity = frames_identity(workspace.params.extract, preprocessing)
    sources = dict(zip(KINDS, manifest.encodable(), strict=True))
    return manifest, preprocessing, cache_folder(workspace, identity, sources)


def _estimate(folder: Path, layout: Layout, manifest: Manifest) -> Iterator[str]:
    with frame_errors(folder):
        tables = tables_of(folder, layout)
        pending = pending_sources(tables, manifest)
    yield f"cache            {folder} ({'exists' if tables['video'].sources else 'new'})"
    yield (
        f"frames           {len(pending['video']):,} of {counted(len(manifest.videos), 'video')} "
        f"to decode, up to {layout.max_frames} x {layout.height} x {layout.width} x {layout.dim} "
        "bytes each, not compressed"
    )
    yield from disk_lines(folder, bytes_to_write(layout, tables, pending))
