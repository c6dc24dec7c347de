"""What is in the cache, for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from gare_cache.annotations.record import SPLITS
from gare_cache.cache.reader import FeatureCache
from gare_cache.cache.schema import KINDS
from gare_cache.manifest import read_manifest
from gare_cache.stages.workspace import Workspace, open_features


def describe(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Yield (name, value) lines about the extraction that ``features.json`` names.

    Raises:
        CacheError: nothing was extracted.
    """
    cache, _ = open_features(workspace)
    size = sum(path.stat().st_size for path in cache.folder.rglob("*") if path.is_file())
    yield "folder", str(cache.folder)
    yield "size", f"{size / 2**20:.1f} MB"
    yield "encoder id", cache.encoder_id
    yield "extraction id", cache.extraction_id
    yield "content digest", cache.content_digest
    yield "features", f"up to {cache.layout.max_frames} frames x {cache.layout.dim}, float16"
    for kind in KINDS:
        counts = cache.counts(kind)
        yield f"{kind} rows", ", ".join(f"{count:,} {name}" for name, count in counts.items())
    yield from _coverage(workspace, cache)
    seconds: dict[str, float] = defaultdict(float)
    for record in cache.records:
        for side, spent in record.seconds.items():
            seconds[side] += spent
    yield "seconds", ", ".join(f"{side} {spent:.1f}" for side, spent in sorted(seconds.items()))
    table = cache.tables["video"]
    decoders = Counter(outcome.decoder for outcome in table.outcomes.values() if outcome.decoder)
    yield "decoders", ", ".join(f"{name} {count:,}" for name, count in decoders.most_common())
    for id_, reason in cache.failures().items():
        yield f"failed {id_}", reason


def _coverage(workspace: Workspace, cache: FeatureCache) -> Iterator[tuple[str, str]]:
    table = cache.tables["video"]
    latest = table.latest()
    videos = read_manifest(workspace.manifest).videos.to_pylist()
    for split in SPLITS:
        ids = [row["video_id"] for row in videos if row["split"] == split]
        encoded = sum(table.status(latest.get(id_, -1)) == "ok" for id_ in ids)
        yield f"{split} videos", f"{encoded:,} of {len(ids):,} encoded"
