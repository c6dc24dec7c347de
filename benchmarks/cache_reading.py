"""Time reading a cache: `python benchmarks/cache_reading.py FOLDER`.

10,000 videos of 12 frames x 512 and 200,000 captions, as of MSR-VTT, in float16. Beside it stand
the same bytes as .npy files, which ``numpy.load`` reads into memory; all are in the page cache. The
forms take turns in one process. "First" opens the cache and compares the checksums of the chunks,
as every process does once; ``load_split`` returns float32 tensors, ids and captions, and stands
beside ``astype``, the plain way to the same numbers. Then the opening of caches of up to a million
videos, of one frame of 8 numbers each: ids, states and checksums. Caches are written below FOLDER
once and used again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from measure import median, print_table, ratio, write_results

from gare_cache.cache.identity import Owner, extraction_identity
from gare_cache.cache.journal import RowOutcome
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.schema import KINDS, Kind, Layout
from gare_cache.cache.writer import open_writer
from gare_cache.data.split import load_split
from gare_cache.manifest.tables import CAPTION_SCHEMA, VIDEO_SCHEMA, Manifest

CAPTIONS = 20  # of a video
SHARES = {"train": 0.85, "val": 0.05, "test": 0.1}


def written(folder: Path, videos: int, captions: int, layout: Layout) -> Path:
    """Return a cache of random features, written if missing."""
    place = folder / f"synthetic-{videos}x{layout.max_frames}x{layout.dim}"
    if (place / "complete").exists():
        return place
    identity = extraction_identity(
        encoder={"weights_sha256": "0" * 64}, sampling={"videos": videos}, decoder_rule="none"
    )
    with open_writer(
        place,
        dataset="synthetic",
        identity=identity,
        layout=layout,
        head_start={"logit_scale": torch.tensor(4.6)},
        owner=Owner("0" * 32, str(folder)),
    ) as writer:
        for kind, items in zip(KINDS, _items(videos, captions), strict=True):
            rows = writer.allocate(kind, items)
            for unit in writer.pending(kind, rows):
                values = _values(kind, len(unit.rows), unit.unit, layout)
                outcomes = [_outcome(kind, row) for row in unit.rows]
                writer.commit(unit, values, outcomes, thumbnails={}, seconds={})
    (place / "complete").touch()
    return place


def _outcome(kind: Kind, row: int) -> RowOutcome:
    """Return an outcome as an extraction writes it: captions have no decoder and no digest."""
    if kind == "text":
        return RowOutcome(row)
    return RowOutcome(row, decoder="decord", digest=f"{row:064x}")


def _items(videos: int, captions: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    manifest = manifest_of(videos, captions)
    return manifest.videos.to_pylist(), manifest.captions.to_pylist()


def manifest_of(videos: int, captions: int) -> Manifest:
    """Return the manifest of a cache."""
    ids = [f"video{number:07}" for number in range(videos)]
    bounds = np.cumsum([round(videos * share) for share in SHARES.values()])
    splits = np.repeat(list(SHARES), np.diff(bounds, prepend=0)).tolist()
    path = [f"{id_}.mp4" for id_ in ids]
    zero, none = [0] * videos, [None] * videos
    columns = [ids, splits, path, none, none, path, zero, zero]
    owners = np.repeat(np.arange(videos), captions).tolist()
    texts = [
        [f"{ids[owner]}#{number % captions}" for number, owner in enumerate(owners)],
        [ids[owner] for owner in owners],
        [splits[owner] for owner in owners],
        ["a caption"] * len(owners),
    ]
    return Manifest(pa.table(columns, schema=VIDEO_SCHEMA), pa.table(texts, schema=CAPTION_SCHEMA))


def _values(kind: Kind, count: int, seed: int, layout: Layout) -> dict[str, npt.NDArray[Any]]:
    generator = np.random.default_rng(seed)
    if kind == "text":
        features = generator.standard_normal((count, layout.dim), np.float32)
        return {"text/features": features.astype(np.float16)}
    frames = generator.standard_normal((count, layout.max_frames, layout.dim), np.float32)
    times = np.tile(np.arange(layout.max_frames, dtype=np.float32), (count, 1))
    return {
        "video/frames": frames.astype(np.float16),
        "video/times": times,
        "video/num_frames": np.full(count, layout.max_frames, np.int32),
    }


def _forms(folder: Path, videos: int) -> dict[str, Callable[[], Any]]:
    place = written(folder, videos, CAPTIONS, Layout(max_frames=12, dim=512))
    manifest = manifest_of(videos, CAPTIONS)
    ids = {name: _ids(manifest, name) for name in SHARES}
    for name in SHARES:
        cache = open_cache(place)
        np.save(folder / f"{name}-frames.npy", cache.videos(ids[name][0]).frames)
        np.save(folder / f"{name}-text.npy", cache.captions(ids[name][1]))
    kept = open_cache(place)

    def read(cache: FeatureCache | None, name: str) -> None:
        cache = cache or open_cache(place)
        cache.videos(ids[name][0])
        cache.captions(ids[name][1])

    def load(name: str) -> None:
        for part in ("frames", "text"):
            np.load(folder / f"{name}-{part}.npy")

    def load_floats(name: str) -> None:
        for part in ("frames", "text"):
            np.load(folder / f"{name}-{part}.npy").astype(np.float32)

    def load_first(name: str) -> None:
        load_split(open_cache(place), manifest, name, device=torch.device("cpu"))

    forms: dict[str, Callable[[], Any]] = {}
    for name in ("train", "test"):
        forms[f"{name}: numpy.load"] = partial(load, name)
        forms[f"{name}: numpy.load, then astype(float32)"] = partial(load_floats, name)
        forms[f"{name}: open"] = partial(open_cache, place)
        forms[f"{name}: open and read, first"] = partial(read, None, name)
        forms[f"{name}: read again"] = partial(read, kept, name)
        forms[f"{name}: load_split, first"] = partial(load_first, name)
    return forms


def _ids(manifest: Manifest, name: str) -> tuple[list[str], list[str]]:
    videos = manifest.videos.filter(pa.compute.equal(manifest.videos["split"], name))
    captions = manifest.captions.filter(pa.compute.equal(manifest.captions["split"], name))
    return videos["video_id"].to_pylist(), captions["caption_id"].to_pylist()


def _opening(folder: Path, videos: int, rounds: int) -> dict[str, Any]:
    place = written(folder, videos, 0, Layout(max_frames=1, dim=8))
    program = (
        "import sys, time; from pathlib import Path\n"
        "from gare_cache.cache.reader import open_cache\n"
        "start = time.perf_counter(); cache = open_cache(Path(sys.argv[1]))\n"
        "seconds = time.perf_counter() - start; cache.rows('video', ['video0000007'])\n"
        "print(seconds, time.perf_counter() - start)"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, str(place)], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(rounds)
    ]
    opened, found = zip(*(map(float, output.split()) for output in outputs), strict=True)
    return {"videos": videos, "open, s": median(opened), "open and find a video, s": median(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--open", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    forms = _forms(arguments.folder, arguments.videos)
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(arguments.rounds + 1):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            seconds[name].append(time.perf_counter() - start)
    rows = [
        {
            "form": name,
            "s": median(times[1:]),
            "times numpy.load": ratio(times[1:], seconds[f"{name.split(':')[0]}: numpy.load"][1:]),
        }
        for name, times in seconds.items()
    ]
    print_table(rows)
    opened = [_opening(arguments.folder, videos, arguments.rounds) for videos in arguments.open]
    if opened:
        print_table(opened)
    write_results("cache_reading", {"reading": rows, "opening": opened})


if __name__ == "__main__":
    main()
