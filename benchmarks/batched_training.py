"""Time runs as one program beside the same one by one: `python benchmarks/batched_training.py`.

Runs that differ in the seed, at the size of the demo (8 frames, D = 64, AdamW; 32 and 128 pairs)
unless given otherwise. Both take turns; the ratio is the median over the rounds. Data are random.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import median, print_table, ratio, take_turns, write_results

from gare_cache.data.frames import FrameChoice
from gare_cache.data.split import FeatureSplit
from gare_cache.heads.retrieval import build_head
from gare_cache.losses.objective import Objective
from gare_cache.losses.settings import LossSettings
from gare_cache.training.loop import Training, TrainingSetup
from gare_cache.training.optimizers import build_optimizer
from gare_cache.training.settings import TrainSettings
from gare_cache.training.together import Together

OFF: dict[str, Any] = {name: {"weight": 0.0} for name in ("ib", "eps", "dir")}
MEAN = {"name": "mean"}
PLAIN: dict[str, Any] = {"projection": "linear", "aggregator": MEAN, "gap": None}
ONE = {"name": "transformer", "init": "random", "layers": 1}
FOUR = {"name": "transformer", "init": "random", "layers": 4}
HEADS: dict[str, dict[str, Any]] = {
    "linear, mean": {**PLAIN, "pooling": MEAN},
    "linear, by text": PLAIN,
    "transformer, 1 layer": {**PLAIN, "aggregator": ONE},
    "transformer, 4 layers": {**PLAIN, "aggregator": FOUR},
    "X-Pool, dropout 0.3": {**PLAIN, "pooling": {"name": "cross_attention"}},
    "linear, GARE, dropout 0": {**PLAIN, "gap": {"dropout": 0.0}},
    "linear, GARE, dropout 0.3": {**PLAIN, "gap": {"dropout": 0.3}},
    "4 layers, GARE, dropout 0.3": {"aggregator": FOUR, "gap": {"dropout": 0.3}},
}


def random_split(videos: int, frames: int, dim: int) -> FeatureSplit:
    """Return a split of random features, one caption a video."""
    mask = torch.arange(frames) < torch.randint(1, frames + 1, (videos, 1))
    ids = [str(i) for i in range(videos)]
    features = torch.randn(videos, frames, dim) * mask[..., None]
    return FeatureSplit(
        "train",
        ids,
        ids,
        ids,
        features,
        mask,
        torch.randn(videos, dim),
        torch.arange(videos),
        videos,
        videos,
    )


def runs_of(
    head: dict[str, Any], count: int, split: FeatureSplit, batch: int, folder: Path
) -> list[Training]:
    """Return runs that differ in the seed."""
    runs = []
    for seed in range(count):
        loss: dict[str, Any] = OFF if head["gap"] is None else {}
        settings = TrainSettings(
            seed=seed, batch_size=batch, optimizer="adamw", epochs=1000, loss=LossSettings(**loss)
        )
        torch.manual_seed(seed)
        frames, dim = split.frames.shape[1:]
        built = build_head(dim=dim, max_frames=frames, **head)
        objective = Objective(settings.loss)
        optimizer = build_optimizer(built, objective, settings)
        choice = FrameChoice(frames, jittered=False)
        setup = TrainingSetup(built, objective, optimizer, split, split, choice)
        stream = torch.Generator()
        stream.set_state(torch.get_rng_state())
        runs.append(Training(setup, settings, state_file=folder / "none", stream=stream))
    return runs


def one_by_one(runs: list[Training]) -> Callable[[], None]:
    """Return a function that trains each run for the batches of an epoch, one after the other."""

    def form() -> None:
        for run in runs:
            run.state.part = None
            for loss in run.setup.losses(run.begin_epoch(), run.settings):
                run.step(loss)

    return form


def together(runs: list[Training]) -> Callable[[], None]:
    """Return a function that trains all runs for the batches of an epoch, as one program."""

    def form() -> None:
        for run in runs:
            run.state.part = None
        for _ in Together(runs).steps():
            pass

    return form


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    rows = []
    for batch in given.batch:
        split = random_split(batch * given.steps, given.frames, given.dim)
        for name, head in HEADS.items():
            with tempfile.TemporaryDirectory() as folder:
                made = [runs_of(head, given.runs, split, batch, Path(folder)) for _ in range(2)]
                forms = {"alone": one_by_one(made[0]), "together": together(made[1])}
                take_turns(forms, 1)
                seconds = take_turns(forms, given.rounds)
            step = 1000 / given.steps / given.runs
            rows.append(
                {
                    "head": name,
                    "pairs": batch,
                    "alone, ms a run's step": median(seconds["alone"]) * step,
                    "together, ms a run's step": median(seconds["together"]) * step,
                    "together / alone": ratio(seconds["together"], seconds["alone"]),
                }
            )
    print_table(rows)
    write_results("batched_training", {"heads": rows, "sizes": [vars(given)]})


if __name__ == "__main__":
    main()
