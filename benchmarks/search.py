"""Time searching galleries of synthetic videos: `python benchmarks/search.py FOLDER`.

Prints Markdown tables of one run: seconds from the start of `gare-cache search` to its result with
10,000 videos; the milliseconds of a query's steps in a warm process for 10,000 and 100,000 videos,
zero shot and with a GARE head of random weights; those of a query where eight
clients ask at once, each again as soon as it is answered; and the memory that searching takes.
Videos have 12 frames of the encoder's width about one of 2,000 scenes; the encoders are that of the
demo and one of the size of CLIP ViT-B/32 with random weights. `--plot` instead times the shortlist
of up to a million vectors, exact against faiss, and draws it into docs/images/search-speed.svg.
Projects are written below FOLDER once and used again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from measure import print_table, write_results
from safetensors.torch import save_file

from gare_cache.annotations.record import SPLITS
from gare_cache.cache.journal import RowOutcome
from gare_cache.cache.reader import open_cache
from gare_cache.cache.schema import KINDS
from gare_cache.cache.writer import open_writer
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.extraction.project_encoder import (
    project_encoder,
    project_identity,
    project_layout,
)
from gare_cache.heads.retrieval import build_head
from gare_cache.manifest.tables import CAPTION_SCHEMA, VIDEO_SCHEMA, Manifest
from gare_cache.project.features import cache_folder, write_features
from gare_cache.project.paths import open_workspace
from gare_cache.project.progress import quiet
from gare_cache.search.faiss_store import open_faiss
from gare_cache.search.hits import SearchResult
from gare_cache.search.opening import open_searcher
from gare_cache.search.searcher import Searcher, Wanted
from gare_cache.search.store import ExactStore
from gare_cache.serving.batching import Batcher
from gare_cache.stages.search import index_folder, project_searcher

SCENES, FRAMES, QUERY = 2000, 12, "a red circle moves left"
STEPS = {
    "encode": "_sentences",
    "filter": "_allowed",
    "shortlist": "_shortlists",
    "read, rerank": "_scored",
    "moments": "_hits",
}
CLIENTS = 8
CLIP_SIZE: dict[str, Any] = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {
        **{"context_length": 77, "vocab_size": 49408, "width": 512},
        **{"heads": 8, "layers": 12},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--plot", action="store_true")
    arguments = parser.parse_args()
    if arguments.plot:
        draw(arguments.folder, Path(__file__).parents[1] / "docs/images/search-speed.svg")
        return
    started = start_table(arguments.folder, arguments.sizes[0], arguments.rounds)
    asked = query_table(arguments.folder, arguments.sizes, arguments.queries)
    write_results("search", {"start to result": started, "query, ms": asked})


def start_table(folder: Path, size: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds from the start of the process; bare torch beside it, in the same rounds."""
    bare = [sys.executable, "-c", "import torch"]
    command = [sys.executable, "-m", "gare_cache.cli", "search", QUERY, "-p"]
    commands = {"import torch alone": bare}
    for encoder in ("demo", "clip"):
        params = project(folder, encoder, size)
        run([*command, str(params)])  # keeps the vectors and the encoder's text tower
        commands[f"search, {encoder} encoder"] = [*command, str(params)]
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(rounds):
        for name, line in commands.items():
            found[name].append(run(line))
    rows = []
    for name, seconds in found.items():
        wall, cpu = (statistics.median(values) for values in zip(*seconds, strict=True))
        rows.append({f"start to result, {size:,} videos": name, "s": wall, "processor s": cpu})
    print_table(rows)
    return rows


def run(command: list[str]) -> tuple[float, float]:
    """Return wall and processor seconds of a process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def query_table(folder: Path, sizes: list[int], queries: int) -> list[dict[str, Any]]:
    """Milliseconds of a query's steps, and memory, zero shot and with a GARE head."""
    names = [*STEPS, "all", f"{CLIENTS} clients"]
    rows = []
    for size, head in [(size, head) for size in sizes for head in ("zero shot", "GARE")]:
        # Each in a process of its own, so that its memory is its own.
        params = project(folder, "clip", size)
        run([sys.executable, "-m", "gare_cache.cli", "search", QUERY, "-p", str(params)])
        command = [sys.executable, str(Path(__file__)), str(params), head]
        environment = {**os.environ, "SEARCH_QUERIES": str(queries)}
        output = subprocess.run(command, check=True, capture_output=True, env=environment).stdout
        found = json.loads(output)
        cells = {name: "{:.0f} ({:.0f})".format(*found[name]) for name in names}
        sizes_of = {f"{name}, MB": round(found[name]) for name in ("memory", "vectors")}
        rows.append({"ms, median (p95)": f"{size:,} videos, {head}", **cells, **sizes_of})
    print_table(rows)
    return rows


def time_queries(params: Path, head: str, queries: int) -> None:
    """Print the milliseconds of each step and the memory of one warm process as JSON."""
    workspace = open_workspace(params, borrow=True)
    with quiet():
        if head == "GARE":
            torch.manual_seed(0)
            built = build_head(dim=CLIP_SIZE["embed_dim"], max_frames=FRAMES)
            cpu = torch.device("cpu")
            searcher = open_searcher(workspace, built, head_id="random weights", device=cpu)
        else:
            searcher = project_searcher(workspace, device="cpu")
        searcher.search(QUERY)
        before = memory()
        milliseconds: dict[str, list[float]] = defaultdict(list)
        for name, method in STEPS.items():
            _timed(searcher, method, milliseconds[name])
        for number in range(queries):
            started = time.perf_counter()
            searcher.search(f"{QUERY} {number}", Wanted(top=10))
            milliseconds["all"].append(1000 * (time.perf_counter() - started))
        milliseconds[f"{CLIENTS} clients"] = asyncio.run(_of_clients(searcher, queries))
    found: dict[str, Any] = {
        name: (float(np.median(values)), float(np.quantile(values, 0.95)))
        for name, values in milliseconds.items()
    }
    size = len(searcher.gallery.videos)
    vectors = size * searcher.gallery.cache.layout.dim * 2 / 1e6
    print(json.dumps({**found, "memory": max(before, memory()), "vectors": vectors}))


async def _of_clients(searcher: Searcher, queries: int) -> list[float]:
    """Return the milliseconds of all queries of clients that ask in turns, through the queue."""
    batcher: Batcher[tuple[str, Wanted], SearchResult] = Batcher(
        searcher.search_many, most_waiting=64, most_at_once=16, seconds=60.0
    )
    milliseconds = []

    async def ask(client: int) -> None:
        for number in range(queries // CLIENTS + 4):
            started = time.perf_counter()
            await batcher.ask((f"{QUERY} {client} {number}", Wanted(top=10)))
            milliseconds.append(1000 * (time.perf_counter() - started))

    answering = asyncio.create_task(batcher.run())
    await asyncio.gather(*map(ask, range(CLIENTS)))
    answering.cancel()
    batcher.close()
    return milliseconds


def _timed(searcher: Searcher, method: str, into: list[float]) -> None:
    inner: Callable[..., Any] = getattr(searcher, method)

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = inner(*arguments, **options)
        if isinstance(result, Iterator):
            result = iter(list(result))
        into.append(1000 * (time.perf_counter() - started))
        return result

    setattr(searcher, method, timed)


def memory() -> float:
    """Return the resident megabytes of this process without mapped files, which can be evicted."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon"))


def project(folder: Path, encoder: str, size: int) -> Path:
    """Return the settings of a project of synthetic videos, written if missing."""
    place = folder / f"{encoder}-{size}"
    if (place / "outputs" / "features.json").is_file():
        return place / "params.yaml"
    (place / "videos").mkdir(parents=True, exist_ok=True)
    params = index_folder(place / "videos", place, encoder="demo")
    text = re.sub(r"max_frames_cached: \d+", f"max_frames_cached: {FRAMES}", params.read_text())
    if encoder == "clip":
        write_encoder(place / "encoder")
        text = text.replace("model: demo", "model: local-dir:encoder", 1)
    params.write_text(text)
    workspace = open_workspace(params)
    manifest = _manifest(place / "videos", size)
    manifest.write(workspace.manifest)
    loaded = project_encoder(workspace, manifest, device="cpu")
    identity = project_identity(workspace, loaded)
    layout = project_layout(workspace.params.extract, loaded)
    videos, captions = manifest.encodable()
    sources = dict(zip(KINDS, (videos, captions), strict=True))
    cache = cache_folder(workspace, identity, sources)
    with open_writer(
        cache,
        dataset=workspace.params.dataset.name,
        identity=identity,
        layout=layout,
        head_start=loaded.head_start(),
        owner=workspace.owner,
    ) as writer:
        rows = writer.allocate("video", videos)
        for unit in writer.pending("video", rows):
            count = len(unit.rows)
            values: dict[str, Any] = {
                "video/frames": _frames(count, layout.dim, unit.unit).astype(np.float16),
                "video/times": np.tile(np.arange(FRAMES, dtype=np.float32), (count, 1)),
                "video/num_frames": np.full(count, FRAMES, np.int32),
            }
            outcomes = [RowOutcome(row, digest=f"{row:064x}") for row in unit.rows]
            writer.commit(unit, values, outcomes, thumbnails={}, seconds={})
    write_features(
        workspace,
        open_cache(cache),
        videos={"encoded": size, "failed": 0, "missing": 0},
        captions={"encoded": 0, "cut": None},
    )
    return params


def write_encoder(folder: Path) -> None:
    """Write a CLIP of the size of ViT-B/32 with random weights."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = import_open_clip().CLIP(**json.loads(json.dumps(CLIP_SIZE)))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    constants = {"mean": [0.5] * 3, "std": [0.25] * 3}
    content = {"model_cfg": CLIP_SIZE, "preprocess_cfg": constants}
    (folder / "open_clip_config.json").write_text(json.dumps(content))


def _manifest(folder: Path, size: int) -> Manifest:
    rows = []
    for number in range(size):
        path = folder / f"{number:07}.mp4"
        path.touch()
        rows.append(
            {
                **{"video_id": path.stem, "split": SPLITS[number % 3], "path": str(path)},
                **{"start_seconds": None, "end_seconds": None, "annotated": path.name},
                **{"size_bytes": 0, "mtime_ns": 0},
            }
        )
    return Manifest(pa.Table.from_pylist(rows, schema=VIDEO_SCHEMA), CAPTION_SCHEMA.empty_table())


def _frames(count: int, dim: int, seed: int) -> np.ndarray[Any, Any]:
    """Return frames (count, 12, D) about scenes that all units share."""
    noise = np.random.default_rng(seed).standard_normal((count, FRAMES, dim), np.float32)
    frames: np.ndarray[Any, Any] = _scenes(count, dim, seed)[:, None] + 0.3 * noise
    return frames


def _scenes(count: int, dim: int, seed: int) -> np.ndarray[Any, Any]:
    """Return videos (count, D), each near one of the scenes."""
    scenes = np.random.default_rng(0).standard_normal((SCENES, dim), np.float32)
    generator = np.random.default_rng(seed + 1)
    own = generator.standard_normal((count, dim), np.float32)
    return scenes[generator.integers(0, SCENES, count)] + 0.7 * own


def draw(folder: Path, target: Path) -> None:
    """Time a shortlist of 256 for galleries of up to a million vectors, and draw it."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "search"
    sizes, found = [1_000, 10_000, 30_000, 100_000, 300_000, 1_000_000], defaultdict(list)
    rows = []
    for size in sizes:
        place = folder / f"vectors-{size}"
        place.mkdir(parents=True, exist_ok=True)
        vectors = _unit_vectors(size, 512)
        queries = _unit_vectors(20, 512, seed=10**6).astype(np.float32)
        exact = ExactStore(vectors)
        started = time.perf_counter()
        with quiet():
            index = open_faiss(vectors, range(size), place)
        built = time.perf_counter() - started
        for name, store in (("exact", exact), ("faiss", index)):
            store.nearest(queries[:1], 256)
            found[name].append(statistics.median(_milliseconds(store.nearest, queries)))
        first = exact.nearest(queries, 10).rows
        kept = [
            set(few.tolist()) <= set(many.tolist())
            for few, many in zip(first, index.nearest(queries, 256).rows, strict=True)
        ]
        rows.append(
            {
                "videos": size,
                "exact, ms": found["exact"][-1],
                "faiss, ms": found["faiss"][-1],
                "index built, s": built,
                "first ten of exact among 256": f"{sum(kept)} of {len(kept)}",
            }
        )
    print_table(rows)
    write_results("search_stores", {"shortlist": rows})
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, style in (("exact", "o-"), ("faiss", "s--")):
        axes.loglog(sizes, found[name], style, label=name)
    axes.set(xlabel="videos", ylabel="ms a query, shortlist of 256")
    axes.grid(alpha=0.3)
    axes.legend()
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, metadata={"Date": None})


def _unit_vectors(size: int, dim: int, seed: int = 1) -> np.ndarray[Any, Any]:
    return np.concatenate(list(_vector_parts(size, dim, seed)))


def _vector_parts(size: int, dim: int, seed: int) -> Iterator[np.ndarray[Any, Any]]:
    for start in range(0, size, 10_000):
        part = _scenes(min(10_000, size - start), dim, seed + start)
        yield (part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float16)


def _milliseconds(nearest: Callable[..., Any], queries: np.ndarray[Any, Any]) -> Iterator[float]:
    for query in queries:
        started = time.perf_counter()
        nearest(query[None], 256)
        yield 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    if "SEARCH_QUERIES" in os.environ:
        time_queries(Path(sys.argv[1]), sys.argv[2], int(os.environ["SEARCH_QUERIES"]))
    else:
        main()
