"""Stage verify: check a cache by rereading it, and by encoding some of its items again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gare_cache.cache.copies import copies_across_splits
from gare_cache.cache.faults import FRAMES_COMMAND, WRITE_AGAIN, Fault, for_frames
from gare_cache.cache.lock import refuse_while_written
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.schema import KINDS, MANIFEST, Kind
from gare_cache.cache.verify import Verification, num_steps, verify_cache
from gare_cache.cache.writer import drop_units
from gare_cache.errors import (
    AnnotationError,
    CacheError,
    FingerprintMismatch,
    UnreadableFile,
    counted,
)
from gare_cache.extraction.again import Comparison, decode_again, encode_again
from gare_cache.extraction.frame_cache import (
    frames_identity,
    frames_manifest,
    project_preprocessing,
)
from gare_cache.extraction.project_encoder import project_encoder, project_identity
from gare_cache.files import canonical_digest
from gare_cache.manifest.tables import read_manifest
from gare_cache.project.features import features_faults
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import progress
from gare_cache.stages.cache_folders import find_folders


def verify(
    workspace: Workspace, name: str | None = None, *, drop_damaged: bool = False
) -> Iterator[str]:
    """Reread a cache and yield its faults and a summary, line by line.

    Args:
        workspace: the project.
        name: folder below the root of caches, or a path; None takes those of ``features.json`` and
            ``frames.json``.
        drop_damaged: delete the records of damaged units, so that extract encodes them again.

    Raises:
        CacheError: after the last line, if faults remain; or there is no cache, or it is being
            written.
    """
    for_each = partial(_verify, workspace, drop_damaged=drop_damaged)
    yield from _all_of(find_folders(workspace, name), for_each)


def _all_of(folders: Sequence[Path], check: Callable[[Path], Iterator[str]]) -> Iterator[str]:
    """Yield what a check says of each folder; raise its errors behind the last one's lines."""
    errors: list[CacheError] = []
    for folder in folders:
        try:
            yield from check(folder)
        except CacheError as err:
            errors.append(err)
    if len(errors) > 1:
        raise CacheError("; and ".join(map(str, errors)))
    if errors:
        raise errors[0]


def _verify(workspace: Workspace, folder: Path, *, drop_damaged: bool) -> Iterator[str]:
    refuse_while_written(folder)
    with progress("verify", num_steps(folder)) as advance:
        verification = verify_cache(folder, on_step=advance)
    faults = [*verification.faults, *features_faults(workspace, verification.cache)]
    of_frames = verification.cache.layout.height > 0
    worded = [for_frames(str(fault), folder) if of_frames else str(fault) for fault in faults]
    yield from worded
    yield from _copies(verification.cache)
    yield from _summary(verification, len(faults))
    left: Sequence[Fault] = faults
    if drop_damaged:
        units = sorted({fault.unit for fault in faults if fault.unit is not None})
        drop_units(folder, units)
        again = f"`{FRAMES_COMMAND}` decodes" if of_frames else "`gare-cache extract` encodes"
        yield f"dropped {counted(len(units), 'unit')}; {again} them again"
        left = [fault for fault in left if fault.unit is None and fault.remedy != WRITE_AGAIN]
    if left:
        first = worded[faults.index(left[0])]
        raise CacheError(f"faults in {folder}: {len(left)}; the first: {first}")


def _copies(cache: FeatureCache) -> Iterator[str]:
    with suppress(
        AnnotationError, UnreadableFile
    ):  # absent before the first extraction ends; damage is a fault
        manifest = read_manifest(cache.folder / MANIFEST)
        yield from copies_across_splits(cache.tables["video"], manifest)


def _summary(result: Verification, num_faults: int) -> Iterator[str]:
    read = counted(result.num_chunks, "chunk")
    yield f"{result.cache.folder}: {read} read, {result.num_bytes / 2**20:,.1f} MB"
    for array, (low, high) in result.norms.items():
        yield f"norms of {array}: {low:.3g} to {high:.3g}"
    absent = f", {result.sources_absent:,} are not on this machine" if result.sources_absent else ""
    yield f"digests of {counted(result.sources_read, 'video')} computed again{absent}"
    yield f"faults: {num_faults:,}"


def reextract(
    workspace: Workspace,
    name: str | None = None,
    *,
    count: int,
    seed: int = 0,
    device: str = "auto",
) -> Iterator[str]:
    """Encode random videos and captions again; yield how well the cache agrees, line by line.

    Videos of a cache of frames are decoded again, and their frames must be equal.

    Args:
        workspace: the project.
        name: folder below the root of caches, or a path; None takes those of ``features.json`` and
            ``frames.json``.
        count: number of videos, and of captions.
        seed: random seed of the choice.
        device: where the encoder runs.

    Raises:
        FingerprintMismatch: params.yaml describes another extraction than the cache's.
        CacheError: after the last line, if an item cannot be encoded again, a cosine is below
            0.99, or frames differ: the cache does not hold the features of these files.
    """
    check = partial(_reextract, workspace, count=count, seed=seed, device=device)
    yield from _all_of(find_folders(workspace, name), check)


def _reextract(
    workspace: Workspace, folder: Path, *, count: int, seed: int, device: str
) -> Iterator[str]:
    cache = open_cache(folder)
    settings = workspace.params.extract
    if cache.layout.height:
        manifest = frames_manifest(workspace)
        preprocessing = project_preprocessing(workspace, manifest)
        _require_settings_of(cache, frames_identity(settings, preprocessing))
        comparisons = decode_again(cache, manifest, preprocessing, settings, count=count, seed=seed)
    else:
        manifest = read_manifest(workspace.manifest)
        encoder = project_encoder(workspace, manifest, device=device)
        _require_settings_of(cache, project_identity(workspace, encoder))
        comparisons = encode_again(cache, manifest, encoder, settings, count=count, seed=seed)
    yield from map(str, comparisons)
    if cache.layout.height:
        videos, equal = counted(len(comparisons), "video"), sum(c.agrees for c in comparisons)
        yield f"frames: {videos} decoded again, {equal} bit for bit equal"
    else:
        for kind in KINDS:
            yield from _agreement(kind, [c for c in comparisons if c.kind == kind])
    bad = [comparison for comparison in comparisons if not comparison.agrees]
    if bad:
        raise CacheError(
            f"{len(bad)} of {len(comparisons):,} items of {cache.folder} are not what "
            "their sources "
            f"give; the first: {bad[0]}. Run `gare-cache verify`; if it finds nothing, move the "
            "cache away and extract again"
        )


def _require_settings_of(cache: FeatureCache, identity: dict[str, Any]) -> None:
    expected = canonical_digest(identity)
    if expected != cache.extraction_id:
        raise FingerprintMismatch(
            f"{cache.folder} is extraction {cache.extraction_id[:12]}, params.yaml describes "
            f"{expected[:12]}; restore the settings that the cache was made with"
        )


def _agreement(kind: Kind, comparisons: Sequence[Comparison]) -> Iterator[str]:
    compared = [c for c in comparisons if c.reason is None]
    if compared:
        cosines = np.concatenate([c.cosines for c in compared])
        yield (
            f"{kind}: {len(compared)} of {len(comparisons):,} items encoded again, "
            "cosine min "
            f"{cosines.min():.6f} mean {cosines.mean():.6f}, "
            f"{sum(c.equal for c in compared)} bit for bit equal"
        )
