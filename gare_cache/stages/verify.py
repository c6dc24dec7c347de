"""Stage verify: reread a cache, and encode some of its items again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache.lock import refuse_while_written
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.schema import KINDS, LENGTHS, PATCHES, VIEWS, WORDS, Kind
from gare_cache.cache.verify import Fault, Verification, num_steps, verify_cache
from gare_cache.cache.writer import drop_units
from gare_cache.encoders.encoder import Encoder
from gare_cache.errors import CacheError, FingerprintMismatch
from gare_cache.extraction.decode import decode_in_workers
from gare_cache.extraction.encode import encode_captions, encode_videos
from gare_cache.extraction.project_encoder import project_encoder, project_identity, project_views
from gare_cache.files import canonical_digest
from gare_cache.manifest import Manifest, read_manifest
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import progress
from gare_cache.stages.cache_folders import find_folder

# float16 moves a cosine by 5e-5, bfloat16 by 3e-3, another frame or file by far more.
_LEAST_COSINE = 0.99
_WORKERS = 2


@dataclass(frozen=True, eq=False)
class Comparison:
    """An item's features in the cache beside the same item encoded again.

    Attributes:
        kind: ``video`` or ``text``.
        item: id of the video or caption.
        cosines: one a feature vector; empty where there is nothing to compare.
        equal: whether every bit is the same.
        reason: why the item could not be encoded again, or not be compared.
    """

    kind: Kind
    item: str
    cosines: npt.NDArray[np.float64]
    equal: bool
    reason: str | None = None

    def __str__(self) -> str:
        if self.reason is not None:
            return f"{self.kind} {self.item}: {self.reason}"
        bits = "bit for bit equal" if self.equal else "not bit for bit equal"
        return (
            f"{self.kind} {self.item}: cosine min {self.cosines.min():.6f} mean "
            f"{self.cosines.mean():.6f}, {bits}"
        )


def verify(
    workspace: Workspace, name: str | None = None, *, drop_damaged: bool = False
) -> Iterator[str]:
    """Reread a cache and yield what is found, a line each.

    Args:
        workspace: the project.
        name: folder below the root of caches, or a path; None is that of ``features.json``.
        drop_damaged: take damaged units for not done, so that extract makes them anew.

    Raises:
        CacheError: after the last line, where faults are left; or there is no cache, or it is
            being written.
    """
    folder = find_folder(workspace, name)
    refuse_while_written(folder)
    with progress("verify", num_steps(folder)) as advance:
        found = verify_cache(folder, on_step=advance)
    yield from map(str, found.faults)
    yield from _summary(folder, found)
    left: Sequence[Fault] = found.faults
    if drop_damaged:
        units = sorted({fault.unit for fault in found.faults if fault.unit is not None})
        drop_units(folder, units)
        yield f"dropped {len(units)} units; `gare-cache extract` makes them anew"
        left = [fault for fault in found.faults if fault.unit is None]
    if left:
        raise CacheError(f"faults in {folder}: {len(left)}; the first: {left[0]}")


def _summary(folder: Path, found: Verification) -> Iterator[str]:
    yield f"{folder}: {found.num_chunks:,} chunks read, {found.num_bytes / 2**20:,.1f} MB"
    for array, (low, high) in found.norms.items():
        yield f"norms of {array}: {low:.3g} to {high:.3g}"
    absent = f", {found.sources_absent:,} are not on this machine" if found.sources_absent else ""
    yield f"digests of {found.sources_read:,} videos computed again{absent}"
    yield f"faults: {len(found.faults):,}"


def reextract(
    workspace: Workspace,
    name: str | None = None,
    *,
    count: int,
    seed: int = 0,
    device: str = "auto",
) -> Iterator[str]:
    """Decode and encode random videos and captions again; yield how near the cache is, a line each.

    Args:
        workspace: the project.
        name: folder below the root of caches, or a path; None is that of ``features.json``.
        count: videos, and as many captions.
        seed: of the choice.
        device: where the encoder runs.

    Raises:
        FingerprintMismatch: params.yaml describes another extraction than the cache's.
        CacheError: after the last line, where an item cannot be encoded again or a cosine is below
            0.99: these are not the features of these files.
    """
    cache = open_cache(find_folder(workspace, name))
    manifest = read_manifest(workspace.manifest)
    encoder = project_encoder(workspace, manifest, device=device)
    expected = canonical_digest(project_identity(workspace, encoder))
    if expected != cache.extraction_id:
        raise FingerprintMismatch(
            f"{cache.folder} is extraction {cache.extraction_id[:12]}, params.yaml describes "
            f"{expected[:12]}; give the settings that it was made with"
        )
    chosen = _choose(cache, manifest, count=count, seed=seed)
    comparisons = [
        *_compare_videos(workspace, cache, encoder, chosen["video"]),
        *_compare_captions(workspace, cache, encoder, chosen["text"]),
    ]
    yield from map(str, comparisons)
    for kind in KINDS:
        yield from _agreement(kind, [c for c in comparisons if c.kind == kind])
    bad = [c for c in comparisons if c.reason is not None or c.cosines.min() < _LEAST_COSINE]
    if bad:
        raise CacheError(
            f"{len(bad)} of {len(comparisons)} items of {cache.folder} are not what their sources "
            f"give; the first: {bad[0]}. Run `gare-cache verify`; where it finds nothing, move the "
            "cache away and extract again"
        )


def _choose(
    cache: FeatureCache, manifest: Manifest, *, count: int, seed: int
) -> dict[Kind, list[dict[str, Any]]]:
    generator = random.Random(seed)
    listed = {
        "video": {row["video_id"]: row for row in manifest.videos.to_pylist() if row["path"]},
        "text": {row["caption_id"]: row for row in manifest.captions.to_pylist()},
    }
    chosen: dict[Kind, list[dict[str, Any]]] = {}
    for kind in KINDS:
        table = cache.tables[kind]
        ids = [
            id_
            for id_, row in table.latest().items()
            if table.status(row) == "ok" and id_ in listed[kind]
        ]
        picked = sorted(generator.sample(range(len(ids)), min(count, len(ids))))
        chosen[kind] = [listed[kind][ids[i]] for i in picked]
    return chosen


def _compare_videos(
    workspace: Workspace, cache: FeatureCache, encoder: Encoder, sources: list[dict[str, Any]]
) -> Iterator[Comparison]:
    settings = workspace.params.extract
    rows = range(len(sources))
    with (
        decode_in_workers(
            sources,
            sampler=settings.sampler,
            max_frames=settings.max_frames_cached,
            preprocessing=encoder.preprocessing,
            workers=_WORKERS,
            deadline_seconds=settings.deadline_seconds,
            views=project_views(settings),
        ) as decoded,
        progress("encode again", len(sources)) as advance,
    ):
        again = encode_videos(
            encoder,
            rows,
            decoded,
            layout=cache.layout,
            batch_frames=settings.batch_frames,
            on_video=advance,
        )
    ids = [source["video_id"] for source in sources]
    stored = cache.videos(ids)
    views = cache.views(ids) if cache.layout.num_views else []
    patches = cache.patches(ids) if cache.layout.num_patches else []
    for i, source in enumerate(sources):
        length = int(stored.num_frames[i])
        reason = again.outcomes[i].reason
        if reason is None and again.values["video/num_frames"][i] != length:
            reason = f"{again.values['video/num_frames'][i]} frames instead of {length}"
        vectors = [stored.frames[i, :length]]
        found = [again.values["video/frames"][i, :length]]
        if views:
            vectors.append(views[i][:, :length])
            found.append(again.values[VIEWS][i, :, :length])
        if patches:
            vectors.append(patches[i][:length])
            found.append(again.values[PATCHES][i, :length])
        pair = (_as_rows(vectors), _as_rows(found))
        yield _compare("video", source["video_id"], *pair, reason=reason)


def _compare_captions(
    workspace: Workspace, cache: FeatureCache, encoder: Encoder, sources: list[dict[str, Any]]
) -> Iterator[Comparison]:
    if not sources:
        return
    again = encode_captions(
        encoder,
        range(len(sources)),
        [source["caption"] for source in sources],
        batch_captions=workspace.params.extract.batch_captions,
        with_words=cache.layout.words,
        on_captions=lambda _: None,
    )
    ids = [source["caption_id"] for source in sources]
    stored: Sequence[npt.NDArray[Any]] = list(cache.captions(ids)[:, None])
    found: Sequence[npt.NDArray[Any]] = list(again.values["text/features"][:, None])
    if cache.layout.words:
        stored = cache.words(ids)
        found = np.split(again.values[WORDS], np.cumsum(again.values[LENGTHS])[:-1])
    for id_, *pair in zip(ids, stored, found, strict=True):
        yield _compare("text", id_, *pair, reason=None)


def _as_rows(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])


def _compare(
    kind: Kind,
    item: str,
    stored: npt.NDArray[Any],
    again: npt.NDArray[Any],
    *,
    reason: str | None,
) -> Comparison:
    if reason is not None:
        return Comparison(kind, item, np.empty(0), equal=False, reason=reason)
    a, b = stored.astype(np.float64), again.astype(np.float64)
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return Comparison(kind, item, cosines, equal=stored.tobytes() == again.tobytes())


def _agreement(kind: Kind, comparisons: Sequence[Comparison]) -> Iterator[str]:
    compared = [c for c in comparisons if c.reason is None]
    if compared:
        cosines = np.concatenate([c.cosines for c in compared])
        yield (
            f"{kind}: {len(compared)} of {len(comparisons)} items encoded again, cosine min "
            f"{cosines.min():.6f} mean {cosines.mean():.6f}, "
            f"{sum(c.equal for c in compared)} bit for bit equal"
        )
