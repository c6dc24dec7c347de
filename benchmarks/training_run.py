"""Time whole trainings at the reference size: `python benchmarks/training_run.py`.

12 frames at D = 512, batches of 128 pairs, a transformer of 4 layers, AdamW, all losses of GARE at
dropout 0.3, validation of 1,000 captions every epoch. `train.precision` and `train.compile` beside
the defaults. On two cores an epoch of a few batches stands for the rest; the training of the
literature is `--device cuda --captions 170060 --epochs 5`: 6,640 updates.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import print_table, write_results

from gare_cache.data.frames import FrameChoice
from gare_cache.data.split import FeatureSplit
from gare_cache.heads.retrieval import build_head
from gare_cache.losses.objective import Objective
from gare_cache.training.loop import TrainingSetup, train_head
from gare_cache.training.optimizers import build_optimizer
from gare_cache.training.settings import TrainSettings

FRAMES, DIM = 12, 512
GARE: dict[str, Any] = {"dropout": 0.3}
OFF: dict[str, Any] = {"loss": {name: {"weight": 0.0} for name in ("ib", "eps", "dir")}}
FORMS: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "no gap module": (None, OFF),
    "no gap module, bfloat16": (None, {**OFF, "precision": "bfloat16"}),
    "GARE": (GARE, {}),
    "GARE, bfloat16": (GARE, {"precision": "bfloat16"}),
    "GARE, compiled": (GARE, {"compile": True}),
    "GARE, bfloat16, compiled": (GARE, {"precision": "bfloat16", "compile": True}),
}


def split(name: str, captions: int, videos: int, device: str) -> FeatureSplit:
    """Return random features of a split, on the device."""
    frames = (torch.randn(videos, FRAMES, DIM) * 0.4).to(device)
    mask = (torch.arange(FRAMES) < torch.randint(1, FRAMES + 1, (videos, 1))).to(device)
    video_of_text = (torch.arange(captions) % videos).sort().values.to(device)
    text = (torch.randn(captions, DIM) * 0.4).to(device)
    ids = [f"{name}{i}" for i in range(videos)]
    captioned = [f"{ids[v]}#{i}" for i, v in enumerate(video_of_text.tolist())]
    return FeatureSplit(
        name, ids, captioned, captioned, frames, mask, text, video_of_text, videos, captions
    )


def seconds_of(form: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Train once; return the seconds a step behind the second one, and those of the whole run."""
    gap, values = FORMS[form]
    torch.manual_seed(0)
    settings = TrainSettings.model_validate(
        {"epochs": arguments.epochs, "optimizer": "adamw", **values}
    )
    head = build_head(
        dim=DIM, max_frames=FRAMES, aggregator={"name": "transformer", "init": "random"}, gap=gap
    ).to(arguments.device)
    head.encodes_in_bfloat16 = settings.precision == "bfloat16"
    objective = Objective(settings.loss).to(arguments.device)
    setup = TrainingSetup(
        head,
        objective,
        build_optimizer(head, objective, settings),
        split("train", arguments.captions, max(2, arguments.captions // 20), arguments.device),
        split("val", 1000, 1000, arguments.device),
        FrameChoice(FRAMES, jittered=False),
    )
    moments: list[float] = []

    def on_batch() -> None:
        if arguments.device != "cpu" and len(moments) < 3:
            torch.cuda.synchronize()
        moments.append(time.perf_counter())

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train_head(
            setup,
            settings,
            state_file=Path(folder) / "state.pt",
            on_batch=on_batch,
            on_epoch=lambda state: None,
        )
    whole = time.perf_counter() - begun
    steps = arguments.captions // settings.batch_size
    return (moments[steps - 1] - moments[1]) / (steps - 2), whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=12 * 128)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for form in arguments.forms:
        step, whole = seconds_of(form, arguments)
        rows.append({"training": form, "s a step": round(step, 4), "s in all": round(whole, 1)})
    for row in rows:
        row["times the first"] = round(row["s a step"] / rows[0]["s a step"], 2)
    print_table(rows)
    write_results("training_run", {f"{arguments.device}, {arguments.threads} threads": rows})


if __name__ == "__main__":
    main()
