"""Stage info: describe the content, size and timing of the current cache."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from gare_cache.cache.coverage import NOUNS, coverage
from gare_cache.cache.faults import for_frames
from gare_cache.cache.folders import folder_bytes, summarise
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.schema import FEATURES, KINDS, THUMBNAILS, WORDS, Kind
from gare_cache.errors import CacheError, counted
from gare_cache.files import read_json
from gare_cache.manifest.tables import read_manifest
from gare_cache.project.features import features_faults, open_features, stopped_extraction
from gare_cache.project.paths import Workspace

_MEGABYTE = 2**20
_SIDES = {
    "decode": "decoding, summed over its processes",
    "wait": "waiting for decoded videos",
    "encode": "encoding",
    "write": "writing",
}
# If the encoder waits less than this share, more decoding processes would not help.
_MUCH_WAITING = 0.1


def describe(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Yield (name, value) lines on the features, or a stopped extraction, and on the frames.

    They are the caches that ``features.json`` and ``frames.json`` name.

    Raises:
        CacheError: no features were extracted; behind the lines on frames.
    """
    try:
        yield from _features(workspace)
    except CacheError:
        yield from _frames(workspace)
        raise
    yield from _frames(workspace)


def _features(workspace: Workspace) -> Iterator[tuple[str, str]]:
    if stopped := stopped_extraction(workspace):
        yield "extraction", f"stopped: {stopped['message']}"
        cache = open_cache(workspace.cache_root / stopped["folder"])
    else:
        cache, _ = open_features(workspace)
    yield "folder", str(cache.folder)
    yield "encoder id", cache.encoder_id
    yield "extraction id", cache.extraction_id
    yield "content digest", cache.content_digest
    for name, value in sorted(cache.attributes["identity"].get("sampling", {}).items()):
        yield f"sampling {name}", str(value)
    yield (
        "features",
        f"up to {counted(cache.layout.max_frames, 'frame')} x {cache.layout.dim}, float16",
    )
    for kind in KINDS:
        counts = cache.counts(kind)
        yield f"{kind} rows", ", ".join(f"{count:,} {name}" for name, count in counts.items())
    for kind, split, encoded, listed in coverage(cache, read_manifest(workspace.manifest)):
        yield f"{split} {NOUNS[kind]}s", f"{encoded:,} of {listed:,} encoded"
    yield from _sizes(cache)
    for kind in KINDS:
        yield from _times(cache, kind)
    yield from _decoders(cache)
    for id_, reason in cache.failures().items():
        yield f"failed {id_}", reason


def _frames(workspace: Workspace) -> Iterator[tuple[str, str]]:
    if not workspace.frames.is_file():
        return
    folder = workspace.cache_root / read_json(workspace.frames)["folder"]
    summary = summarise(folder)
    state = summary.state
    yield "frames folder", str(folder)
    if summary.counts:
        cache = open_cache(folder)
        yield "frames", f"{summary.content}, up to {cache.layout.max_frames} a video, uint8"
        yield "frames rows", summary.counts
        for kind, split, held, listed in coverage(cache, read_manifest(workspace.manifest)):
            if kind == "video":
                yield f"frames {split} videos", f"{held:,} of {listed:,} decoded"
        for fault in features_faults(workspace, cache):
            state = for_frames(str(fault), folder)
    yield "frames size", _megabytes(summary.num_bytes)
    yield "frames state", state


def _sizes(cache: FeatureCache) -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        for spec in cache.layout.arrays(kind):
            size = folder_bytes(cache.folder / FEATURES / spec.name)
            shape = " x ".join(map(str, (len(cache.tables[kind].sources), *spec.row_shape)))
            yield f"array {spec.name}", f"{_megabytes(size)}, {shape} {spec.dtype}"
    if cache.layout.words:
        size = folder_bytes(cache.folder / FEATURES / WORDS)
        captions = len(cache.tables["text"].sources)
        shape = f"tokens of {counted(captions, 'caption')} x {cache.layout.dim}"
        yield f"array {WORDS}", f"{_megabytes(size)}, {shape} <f2"
    yield THUMBNAILS, _megabytes(folder_bytes(cache.folder / THUMBNAILS))
    yield "size", _megabytes(folder_bytes(cache.folder))


def _times(cache: FeatureCache, kind: Kind) -> Iterator[tuple[str, str]]:
    seconds: dict[str, float] = defaultdict(float)
    for record in cache.records:
        if record.kind == kind:
            for side, spent in record.seconds.items():
                seconds[side] += spent
    for side, spent in sorted(seconds.items()):
        yield f"{kind} {side}", f"{spent:.1f} s {_SIDES.get(side, '')}".strip()
    if kind == "video" and {"wait", "encode"} <= seconds.keys():
        # Writing overlaps with both; the encoder either works or waits for the decoders.
        share = seconds["wait"] / max(seconds["wait"] + seconds["encode"], 1e-9)
        limit = "decoding" if share > 0.5 else "encoding"
        hint = "; more decoding processes may help" if share > _MUCH_WAITING else ""
        yield "limit", f"{limit}: the encoder waited {100 * share:.0f} % of its time{hint}"


def _decoders(cache: FeatureCache) -> Iterator[tuple[str, str]]:
    outcomes = cache.tables["video"].outcomes.values()
    decoders = Counter(outcome.decoder for outcome in outcomes if outcome.decoder)
    yield "decoders", ", ".join(f"{name} {count:,}" for name, count in decoders.most_common())
    switched = sum(outcome.switch_reason is not None for outcome in outcomes)
    if switched:
        yield "switched", f"{counted(switched, 'video')} that decord could not decode"


def _megabytes(size: int) -> str:
    return f"{size / _MEGABYTE:,.1f} MB"
