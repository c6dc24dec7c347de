"""Stages import-features and export-features: exchange features with other programs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gare_cache.annotations.record import SPLITS
from gare_cache.cache.disk import environment_errors
from gare_cache.cache.exchange.export import HDF5, export_features
from gare_cache.cache.exchange.identity import import_identity
from gare_cache.cache.exchange.imports import Place, import_unit
from gare_cache.cache.exchange.release_rows import wide
from gare_cache.cache.exchange.tables import IDS, FeatureTable
from gare_cache.cache.loading import expected_items
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.schema import KINDS, MANIFEST, Kind
from gare_cache.cache.writer import CacheWriter, open_writer
from gare_cache.errors import ConfigError, FeatureFileError, unknown_name
from gare_cache.manifest.tables import Manifest, read_manifest
from gare_cache.project.features import cache_folder, open_features, write_features
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import progress, say
from gare_cache.stages.import_request import ImportRequest

_PREVIEWED = 5


def import_features(workspace: Workspace, request: ImportRequest) -> dict[str, Any]:
    """Create a cache from features that were encoded elsewhere, then write ``features.json``.

    The files are streamed unit by unit; an interrupted import continues after its last unit, and a
    finished one changes nothing. The folder is named after a digest of the files' content.

    Args:
        workspace: the project, whose manifest lists the known ids.
        request: the files and how they are understood.

    Returns:
        The content of ``features.json``.

    Raises:
        FeatureFileError: a file is faulty, its ids are not the manifest's, or none of its videos
            or captions can be used.
        ConfigError: the encoder is not named, or a flag does not fit the files.
        CacheError: another process is writing the cache.
    """
    manifest = read_manifest(workspace.manifest)
    listed = _listed(manifest)
    with request.opened(listed) as source:
        say(f"digest of {', '.join(map(str, [*request.paths, *request.captions]))}")
        identity = import_identity(
            encoder=source.encoder,
            source_digest=request.digest(),
            max_frames=source.layout.max_frames,
            logit_scale=source.logit_scale,
        )
        places = {kind: _places(source.tables[kind], listed[kind]) for kind in KINDS}
        folder = cache_folder(
            workspace,
            identity,
            {kind: [listed[kind][t.ids[at]] for t, at in places[kind]] for kind in KINDS},
        )
        say(f"cache {folder}")
        with open_writer(
            folder,
            dataset=workspace.params.dataset.name,
            identity=identity,
            layout=source.layout,
            head_start=source.head_start,
            owner=workspace.owner,
        ) as writer:
            for kind in KINDS:
                _import_kind(writer, kind, places[kind], listed[kind])
            if writer.owned:
                with environment_errors(folder):
                    manifest.write(folder / MANIFEST)
    return _publish(workspace, open_cache(folder), listed)


def preview_import(workspace: Workspace, request: ImportRequest) -> list[str]:
    """Check what ``import_features`` would import, and write nothing.

    Args:
        workspace: the project, whose manifest lists the known ids.
        request: as for ``import_features``.

    Returns:
        One line a kind with counts, and one for each of the first items: its id, number of rows,
        type, the norm of its first row, and its first and last second or its sentence.

    Raises:
        FeatureFileError: as ``import_features``.
        ConfigError: as ``import_features``.
    """
    listed = _listed(read_manifest(workspace.manifest))
    lines: list[str] = []
    with request.opened(listed) as source:
        for kind in KINDS:
            places = _places(source.tables[kind], listed[kind])
            lines.append(f"{kind}: {len(places):,} of {len(listed[kind]):,} in the manifest")
            lines += [_shown(table, at, listed[kind]) for table, at in places[:_PREVIEWED]]
    return lines


def _shown(table: FeatureTable, at: int, listed: Mapping[str, dict[str, Any]]) -> str:
    (block,) = table.blocks([at])
    id_ = table.ids[at]
    norm = np.linalg.norm(wide(block.vectors[:1]).astype(np.float64))
    start = f", first row of norm {norm:.4g}" if len(block.vectors) else ""
    line = f"  {id_}: {len(block.vectors)} x {table.dim} {'/'.join(sorted(table.dtypes))}{start}"
    if table.kind == "text":
        return f"{line}: {listed[id_]['caption']!r}"
    seconds = block.times[~np.isnan(block.times)]
    return f"{line}, {seconds[0]:g} to {seconds[-1]:g} s" if len(seconds) else f"{line}, no seconds"


def export(
    workspace: Workspace,
    path: Path,
    splits: Sequence[str] = (),
    *,
    layout: str = HDF5,
    shard_mib: int | None = None,
) -> Path:
    """Write the features named by ``features.json`` to a file or folder that can be imported.

    Args:
        workspace: the project.
        path: the file or folder to create.
        splits: which splits; empty means all.
        layout: a name of ``EXPORTS``.
        shard_mib: mebibytes of features in a file of a layout that has several; None is 512.

    Raises:
        ConfigError: an unknown split or layout.
        CacheError: there are no features.
        FeatureFileError: the path exists.
    """
    for split in splits:
        if split not in SPLITS:
            raise ConfigError(unknown_name("split", split, SPLITS))
    cache, _ = open_features(workspace)
    manifest = read_manifest(workspace.manifest)
    items = {
        kind: [
            row
            for row in expected_items(cache, manifest, kind).to_pylist()
            if not splits or row["split"] in splits
        ]
        for kind in KINDS
    }
    left_out = [
        name
        for name, held in (
            ("augmented views", cache.layout.num_views),
            ("patch tokens", cache.layout.num_patches),
            ("word tokens", cache.layout.words),
        )
        if held
    ]
    if left_out:
        say(f"note: {' and '.join(left_out)} stay in the cache; the export holds pooled features")
    with progress("export", sum(map(len, items.values()))) as advance:
        export_features(cache, path, items, layout=layout, shard_mib=shard_mib, on_items=advance)
    return path


def _listed(manifest: Manifest) -> dict[Kind, dict[str, dict[str, Any]]]:
    """Return the manifest's rows by kind and id, without the paths of video files."""
    no_file = {"path": None, "size_bytes": None, "mtime_ns": None}
    return {
        "video": {row["video_id"]: {**row, **no_file} for row in manifest.videos.to_pylist()},
        "text": {row["caption_id"]: row for row in manifest.captions.to_pylist()},
    }


def _places(tables: Sequence[FeatureTable], listed: Mapping[str, dict[str, Any]]) -> list[Place]:
    """Return where each known item lies; rows follow the files, so that reading is one pass."""
    return [
        (table, position)
        for table in tables
        for position, id_ in enumerate(table.ids)
        if id_ in listed
    ]


def _import_kind(
    writer: CacheWriter,
    kind: Kind,
    places: Sequence[Place],
    listed: Mapping[str, dict[str, Any]],
) -> None:
    rows = writer.allocate(kind, [listed[table.ids[at]] for table, at in places])
    place_of = dict(zip(rows, places, strict=True))
    pending = writer.pending(kind, rows)
    left = sum(len(unit.rows) for unit in pending)
    largest = 0.0
    with progress(f"import {kind} features", len(rows), done=len(rows) - left) as advance:
        for unit in pending:
            started = time.perf_counter()
            imported = import_unit(
                writer.layout,
                kind,
                unit.rows,
                [place_of[row] for row in unit.rows],
                on_items=advance,
            )
            seconds = {"read": time.perf_counter() - started}
            writer.commit(unit, imported.values, imported.outcomes, thumbnails={}, seconds=seconds)
            largest = max(largest, imported.relative_error)
    if left:
        dtypes = sorted(frozenset().union(*(table.dtypes for table, _ in places)))
        say(
            f"{kind} features were {' and '.join(dtypes)}; the largest relative error of a "
            f"vector in float16 is {largest:.1e}"
        )


def _publish(
    workspace: Workspace, cache: FeatureCache, listed: Mapping[Kind, Iterable[str]]
) -> dict[str, Any]:
    counts: dict[Kind, dict[str, int]] = {}
    for kind in KINDS:
        table = cache.tables[kind]
        latest = table.latest()
        states = {id_: table.status(latest.get(id_, -1)) for id_ in listed[kind]}
        failed = [id_ for id_, state in states.items() if state == "failed"]
        num_ok = sum(state == "ok" for state in states.values())
        if failed:
            reason = table.outcomes[latest[failed[0]]].reason
            summary = f"{len(failed):,} {IDS[kind]} cannot be used (first: {failed[0]!r}, {reason})"
            if not num_ok:
                raise FeatureFileError(f"{summary}; nothing is left to train on")
            say(f"warning: {summary}; they are masked, and counted in every coverage")
        missing = len(states) - num_ok - len(failed)
        counts[kind] = {"encoded": num_ok, "failed": len(failed), "missing": missing}
    return write_features(workspace, cache, videos=counts["video"], captions=counts["text"])
