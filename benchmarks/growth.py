"""See how cost grows with size: `python benchmarks/growth.py FOLDER`.

Times exact scoring (T = V, F, D), a training step with GARE (batch, F, D), reading a cache (V),
`prepare` (V) and the exact shortlist of a search (V), each at several sizes while the others stay
at theirs: T = V = 250, a batch of 64, F = 12, D = 512. Prints seconds and the exponent p of
seconds ~ size^p that fits the largest three sizes, draws docs/images/growth.svg, and writes JSON.
One thread; caches and projects are written below FOLDER once and used again.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cache_reading import written
from measure import median, print_table, write_results
from torch import Tensor

from gare_cache.cache.reader import open_cache
from gare_cache.cache.schema import Layout
from gare_cache.heads.retrieval import build_head
from gare_cache.losses.objective import Objective
from gare_cache.project.paths import open_workspace
from gare_cache.project.progress import quiet
from gare_cache.search.store import ExactStore
from gare_cache.stages.prepare import prepare

Form = Callable[[], Any]
FRAMES, WIDTHS = (3, 6, 12, 24, 48), (64, 128, 256, 512, 1024)
GARE = {"side": "text", "context": "frames", "dropout": 0.3}


def _batch(texts: int, videos: int, frames: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    text, features = torch.randn(texts, dim), torch.randn(videos, frames, dim)
    return text, features, torch.ones(videos, frames, dtype=torch.bool)


def scoring(pairs: int = 250, frames: int = 12, dim: int = 512) -> Form:
    """Score all pairs of as many texts and videos exactly."""
    head = build_head(dim=dim, max_frames=frames, aggregator={"name": "mean"}, gap=GARE)
    return partial(head.similarity, *_batch(pairs, pairs, frames, dim))


def step(batch: int = 64, frames: int = 12, dim: int = 512) -> Form:
    """Do a training step with a transformer and GARE's losses."""
    head = build_head(
        dim=dim,
        max_frames=frames,
        aggregator={"name": "transformer", "init": "random"},
        gap=GARE,
    )
    objective, inputs = Objective(), _batch(batch, batch, frames, dim)

    def run() -> None:
        scores = head.pair_scores(*inputs)
        objective(scores.similarity, scores.delta, head.scale).total.backward()

    return run


def reading(folder: Path, videos: int) -> Form:
    """Open a cache and read the frames of all videos."""
    place = written(folder, videos, 0, Layout(max_frames=12, dim=512))
    ids = [f"video{number:07}" for number in range(videos)]
    return lambda: open_cache(place).videos(ids)


def preparing(folder: Path, videos: int) -> Form:
    """Write the manifest of a folder of empty files with a caption each."""
    place = folder / f"prepare-{videos}"
    params = place / "params.yaml"
    if not params.exists():
        (place / "videos").mkdir(parents=True, exist_ok=True)
        names = [f"{number:07}" for number in range(videos)]
        for name in names:
            (place / "videos" / f"{name}.mp4").touch()
        with (place / "captions.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["video", "caption"])
            rows.writerows([f"{name}.mp4", f"caption of {name}"] for name in names)
        params.write_text(
            "dataset: {name: growth, reader: generic, annotations: captions.csv, "
            "video_roots: [videos]}\n"
        )
    workspace = open_workspace(params)
    return lambda: prepare(workspace)


def searching(videos: int) -> Form:
    """Find the 256 nearest of some vectors of 512 numbers."""
    vectors = np.random.default_rng(0).standard_normal((videos, 512), np.float32)
    store = ExactStore(vectors.astype(np.float16))
    query = np.ones((1, 512), np.float32)
    return lambda: store.nearest(query, 256)


def timed(form: Form, rounds: int) -> float:
    """Return the median seconds of a form behind one that is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with quiet():
            form()
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Fit p of seconds ~ size^p to the largest three sizes."""
    slope, _ = np.polyfit(np.log(sizes[-3:]), np.log(seconds[-3:]), 1)
    return float(slope)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    curves: dict[tuple[str, str], list[tuple[int, Callable[[], Form]]]] = {
        ("scoring", "T = V"): [(n, partial(scoring, n)) for n in (125, 250, 500, 1000)],
        ("scoring", "F"): [(f, partial(scoring, frames=f)) for f in FRAMES],
        ("scoring", "D"): [(d, partial(scoring, dim=d)) for d in WIDTHS],
        ("training step", "batch"): [(n, partial(step, n)) for n in (16, 32, 64, 128)],
        ("training step", "F"): [(f, partial(step, frames=f)) for f in FRAMES],
        ("training step", "D"): [(d, partial(step, dim=d)) for d in WIDTHS],
        ("reading", "V"): [(v, partial(reading, folder, v)) for v in (1000, 4000, 16000)],
        ("prepare", "V"): [(v, partial(preparing, folder, v)) for v in (1000, 4000, 16000)],
        ("search", "V"): [(v, partial(searching, v)) for v in (10_000, 40_000, 160_000, 640_000)],
    }
    rows, found = [], {}
    for (what, axis), points in curves.items():
        sizes = [size for size, _ in points]
        seconds = [timed(make(), arguments.rounds) for _, make in points]
        found[what, axis] = sizes, seconds
        rows.append(
            {
                "what": what,
                "grows with": axis,
                "from": sizes[0],
                "to": sizes[-1],
                "s, first": seconds[0],
                "s, last": seconds[-1],
                "exponent": exponent(sizes, seconds),
            }
        )
    print_table(rows)
    points_of = {
        f"{what}, {axis}": [
            {"size": size, "s": value} for size, value in zip(sizes, seconds, strict=True)
        ]
        for (what, axis), (sizes, seconds) in found.items()
    }
    write_results("growth", {"exponents": rows, **points_of})
    draw(found, Path(__file__).parents[1] / "docs/images/growth.svg")


def draw(
    found: Mapping[tuple[str, str], tuple[Sequence[int], Sequence[float]]], target: Path
) -> None:
    """Draw seconds against size, one panel for each quantity that grows."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "growth"
    panels = {"items": ("T = V", "batch", "V"), "frames F": ("F",), "width D": ("D",)}
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, (label, names) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for (what, axis), (sizes, seconds) in found.items():
            if axis in names:
                label_of = f"{what}: ({axis})$^{{{exponent(sizes, seconds):.1f}}}$"
                axes.loglog(sizes, seconds, "o-", label=label_of)
        axes.set(xlabel=label, ylabel="s")
        if label != "items":
            ticks = FRAMES if label.startswith("frames") else WIDTHS
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
