"""Time and memory of a finetuning step by chunk: `python benchmarks/finetuning.py`.

A CLIP of the size of ViT-B/32 with random weights, `--pairs` pairs of 12 frames of 224 px in
memory, the temporal transformer with GARE's gap module, AdamW. Each row is a process of its own,
which does two steps. With a chunk the memory hardly depends on the number of pairs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from measure import peak_memory, print_table, write_results

from gare_cache.data.frames import FrameChoice
from gare_cache.data.split import FeatureSplit
from gare_cache.encoders.encoder import load_encoder
from gare_cache.encoders.loading import ModelSource
from gare_cache.finetuning.settings import FinetuneSettings
from gare_cache.finetuning.setup import FinetuneSetup, Pixels
from gare_cache.finetuning.towers import Towers
from gare_cache.heads.retrieval import build_head
from gare_cache.losses.objective import Objective
from gare_cache.training.distributed import Processes
from gare_cache.training.loop import Draw
from gare_cache.training.optimizers import build_optimizer
from gare_cache.training.settings import TrainSettings

FRAMES, DIM = 12, 512
FORMS: dict[str, dict[str, Any]] = {
    "full": {"encoder": "full"},
    "full, chunk 4": {"encoder": "full", "chunk": 4},
    "full, chunk 4, checkpointing": {"encoder": "full", "chunk": 4, "checkpointing": True},
    "full, chunk 4, bfloat16": {"encoder": "full", "chunk": 4, "precision": "bfloat16"},
    "LoRA, chunk 4": {"encoder": "lora", "chunk": 4},
    "last block, chunk 4": {"encoder": "last", "last_blocks": 1, "chunk": 4},
}


@contextmanager
def noise(video_ids: Sequence[str], draws: Sequence[str] | None) -> Iterator[Iterator[Pixels]]:
    """Yield random frames."""
    generator = np.random.default_rng(0)
    yield (generator.integers(0, 256, (FRAMES, 224, 224, 3), dtype=np.uint8) for _ in video_ids)


def cost(form: str, pairs: int, device: str, threads: int) -> dict[str, Any]:
    """Do two steps; return the seconds of the second, the peak memory, and what trains."""
    torch.set_num_threads(threads)
    settings = FinetuneSettings.model_validate(FORMS[form])
    training = TrainSettings.model_validate({"batch_size": pairs, "optimizer": "adamw"})
    source = ModelSource("ViT-B-32", "openai")
    encoder = load_encoder(source, download=False, device=torch.device(device))
    towers = Towers(encoder, settings).to(device)
    gap = {"dropout": 0.3}
    head = build_head(dim=DIM, max_frames=FRAMES, aggregator={"name": "transformer"}, gap=gap)
    head, objective = head.to(device), Objective(training.loss).to(device)
    ids = [str(number) for number in range(pairs)]
    split = FeatureSplit(
        name="train",
        video_ids=ids,
        caption_ids=ids,
        captions=[f"a sentence of some ten words about video number {id_}" for id_ in ids],
        frames=torch.zeros(1),
        mask=torch.zeros(1),
        text=torch.zeros(1),
        video_of_text=torch.arange(pairs),
        num_videos_listed=pairs,
        num_captions_listed=pairs,
    )
    setup = FinetuneSetup(
        head=head,
        objective=objective,
        optimizer=build_optimizer(head, objective, training, encoder=towers.trained),
        train_split=split,
        val_split=split,
        frame_choice=FrameChoice(FRAMES, jittered=False),
        towers=towers,
        settings=settings,
        source=noise,
        num_frames=FRAMES,
    )
    batches = torch.arange(pairs).repeat(2, 1)
    draw = Draw(batches, 1, 0, None, torch.Generator(), Processes())
    moments = [time.perf_counter()]
    for _ in setup.losses(draw, training):
        setup.update(max_grad_norm=1.0, processes=Processes())
        setup.optimizer.zero_grad(set_to_none=True)
        moments.append(time.perf_counter())
    used = peak_memory() if device == "cpu" else torch.cuda.max_memory_allocated() / 1e6
    return {
        "s a step": round(moments[2] - moments[1], 1),
        "memory, MB": round(used),
        "weights trained, million": round(sum(p.numel() for p in setup.parameters) / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    arguments = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for form in arguments.forms:
            found = pool.submit(
                cost, form, arguments.pairs, arguments.device, arguments.threads
            ).result()
            rows.append({f"step of {arguments.pairs} pairs": form, **found})
    print_table(rows)
    write_results("finetuning", {f"{arguments.device}, {arguments.threads} threads": rows})


if __name__ == "__main__":
    main()
