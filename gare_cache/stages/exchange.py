"""Stages import-features and export-features: exchange features with other programs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from gare_cache.annotations.record import SPLITS
from gare_cache.cache.disk import environment_errors
from gare_cache.cache.exchange.export import export_features
from gare_cache.cache.exchange.files import FeatureFile, feature_file_digest, open_feature_file
from gare_cache.cache.exchange.identity import import_identity
from gare_cache.cache.exchange.imports import Place, import_unit
from gare_cache.cache.exchange.layouts import ReleaseOptions, open_release, wide
from gare_cache.cache.exchange.sources import ImportSource, check_ids, read_source
from gare_cache.cache.exchange.tables import IDS, FeatureTable
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.rows import ID
from gare_cache.cache.schema import KINDS, MANIFEST, Kind
from gare_cache.cache.writer import CacheWriter, open_writer
from gare_cache.data.split import expected_items
from gare_cache.errors import ConfigError, FeatureFileError, agreeing, unknown_name
from gare_cache.files import canonical_digest
from gare_cache.manifest.tables import Manifest, read_manifest
from gare_cache.project.features import cache_folder, open_features, write_features
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import progress, say

_PREVIEWED = 5


def import_features(
    workspace: Workspace,
    paths: Sequence[Path],
    *,
    encoder_id: str | None = None,
    max_frames: int | None = None,
    logit_scale: float | None = None,
    ignore_unknown: bool = False,
    captions: Sequence[Path] = (),
    release: ReleaseOptions | None = None,
) -> dict[str, Any]:
    """Create a cache from features that were encoded elsewhere, then write ``features.json``.

    The files are streamed unit by unit; an interrupted import continues after its last unit, and a
    finished one changes nothing. The folder is named after a digest of the files' content.

    Args:
        workspace: the project, whose manifest lists the known ids.
        paths: HDF5 files, npz archives or folders of npy files (docs/features.md).
        encoder_id: name of the encoder; None takes the identity stored in an exported file.
        max_frames: frames F of a row; None takes those of the longest video.
        logit_scale: logarithm of the initial scale of heads; None takes the file's, or log 100.
        ignore_unknown: skip ids that are not in the manifest instead of raising an error.
        captions: the captions' files, where ``paths`` are the videos' in the layout of a release.
        release: the layout of a release; None reads the layouts of this package.

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
    with ExitStack() as stack:
        files = _open_all(stack, paths, captions, release, ignore_unknown)
        source = read_source(
            files, encoder_id=encoder_id, max_frames=max_frames, logit_scale=logit_scale
        )
        _say_ids(source, listed, ignore_unknown=ignore_unknown)
        say(f"digest of {', '.join(map(str, [*paths, *captions]))}")
        identity = import_identity(
            encoder=source.encoder,
            source_digest=_source_digest(paths, captions, release),
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


def release_options(layout: str | None, **options: Any) -> ReleaseOptions | None:
    """Return the options of a release's layout; None without a layout.

    Args:
        layout: name of the layout.
        options: other attributes of ``ReleaseOptions``; None stands for the default.

    Raises:
        ConfigError: an option is unknown, has no effect, or needs a layout.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if layout is not None:
        return ReleaseOptions(layout, **given)
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{flags} {agreeing(len(given), 'need')} --layout")
    return None


def preview_import(
    workspace: Workspace,
    paths: Sequence[Path],
    *,
    encoder_id: str | None = None,
    max_frames: int | None = None,
    logit_scale: float | None = None,
    ignore_unknown: bool = False,
    captions: Sequence[Path] = (),
    release: ReleaseOptions | None = None,
) -> list[str]:
    """Check what ``import_features`` would import, and write nothing.

    Args:
        workspace: the project, whose manifest lists the known ids.
        paths: as for ``import_features``.
        encoder_id: as for ``import_features``.
        max_frames: as for ``import_features``.
        logit_scale: as for ``import_features``.
        ignore_unknown: as for ``import_features``.
        captions: as for ``import_features``.
        release: as for ``import_features``.

    Returns:
        One line a kind with counts, and one for each of the first items: its id, number of rows,
        type, the norm of its first row, and its first and last second or its sentence.

    Raises:
        FeatureFileError: as ``import_features``.
        ConfigError: as ``import_features``.
    """
    listed = _listed(read_manifest(workspace.manifest))
    lines: list[str] = []
    with ExitStack() as stack:
        files = _open_all(stack, paths, captions, release, ignore_unknown)
        source = read_source(
            files, encoder_id=encoder_id, max_frames=max_frames, logit_scale=logit_scale
        )
        _say_ids(source, listed, ignore_unknown=ignore_unknown)
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


def _open_all(
    stack: ExitStack,
    paths: Sequence[Path],
    captions: Sequence[Path],
    release: ReleaseOptions | None,
    ignore_unknown: bool,
) -> list[FeatureFile]:
    if release is None:
        if captions:
            raise ConfigError("--captions belongs to --layout; without it, name all files alike")
        return [stack.enter_context(open_feature_file(path)) for path in paths]
    kinds: list[tuple[Kind, Path]] = [
        *(("video", path) for path in paths),
        *(("text", path) for path in captions),
    ]
    return [
        stack.enter_context(
            open_release(path, kind, release, say=say, ignore_unknown=ignore_unknown)
        )
        for kind, path in kinds
    ]


def _say_ids(
    source: ImportSource, listed: Mapping[Kind, Mapping[str, Any]], *, ignore_unknown: bool
) -> None:
    for kind in KINDS:
        for note in check_ids(
            source.tables[kind], listed[kind], kind, ignore_unknown=ignore_unknown
        ):
            say(note)


def _source_digest(
    paths: Sequence[Path], captions: Sequence[Path], release: ReleaseOptions | None
) -> str:
    digests = [feature_file_digest(path) for path in paths]
    if release is None:
        return canonical_digest(digests)
    return canonical_digest(
        [digests, [feature_file_digest(path) for path in captions], release.digest()]
    )


def export(workspace: Workspace, path: Path, splits: Sequence[str] = ()) -> Path:
    """Write the features named by ``features.json`` to an HDF5 file that can be imported.

    Args:
        workspace: the project.
        path: the file to create.
        splits: which splits; empty means all.

    Raises:
        ConfigError: an unknown split.
        CacheError: there are no features.
        FeatureFileError: the file exists.
    """
    for split in splits:
        if split not in SPLITS:
            raise ConfigError(unknown_name("split", split, SPLITS))
    cache, _ = open_features(workspace)
    manifest = read_manifest(workspace.manifest)
    ids: dict[Kind, Sequence[str]] = {
        kind: [
            row[ID[kind]]
            for row in expected_items(cache, manifest, kind)
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
        say(f"note: {' and '.join(left_out)} stay in the cache; the file holds pooled features")
    with progress("export", sum(map(len, ids.values()))) as advance:
        export_features(cache, path, ids, on_items=advance)
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
