"""Time the exact score against the dense one: `python benchmarks/exact_scoring.py`.

Prints a Markdown table: for each side that the increment corrects and each context that psi attends
to, and for X-Pool's pooling, median processor seconds of scoring T texts against V = T videos
(D = 512, F = 12, W = 12 words at most, one attention head), the median of the ratios, the largest
difference between the two, and the memory that each takes beside its inputs, in a process of its
own. The two forms take turns, so that other work on the machine meets both. The dense score runs in
blocks of texts so that its pair tensor fits into memory. A second table has the ten best of 10,000
videos for each of 2,000 texts, from all scores at once and block by block as ``Run.top_k`` takes
them. CPU, one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from measure import added_memory, median, print_table, ratio, take_turns, write_results
from torch import Tensor

from gare_cache.evaluation.retrieved import TopK, top_videos
from gare_cache.heads.pairs import Words
from gare_cache.heads.retrieval import RetrievalHead, build_head
from gare_cache.heads.scoring import blocks
from gare_cache.heads.settings import CONTEXTS, SIDES

DIM, NUM_FRAMES, NUM_WORDS, TEXT_BLOCK = 512, 12, 12, 20
X_POOL = "X-Pool"
TEXTS, VIDEOS, BEST, VIDEO_BLOCK = 2_000, 10_000, 10, 1024

Forms = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400], help="T = V")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each form")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for side, context in [*product(SIDES, CONTEXTS), (X_POOL, "frames")]:
        for size in arguments.sizes:
            compared = _compared(side, context, size, arguments.rounds)
            rows.append({"side": side, "context": context, **compared})
    print_table(rows)
    best = [_ranked(name) for name in ranking_forms()]
    print(f"{TEXTS:,} texts, {VIDEOS:,} videos\n")
    print_table(best)
    write_results("exact_scoring", {"one thread": rows, "the ten best": best})


def _compared(side: str, context: str, size: int, rounds: int) -> dict[str, Any]:
    results: dict[str, Tensor] = {}
    forms = scoring_forms(side, context, size, results)
    seconds = take_turns(forms, rounds, time.process_time)
    return {
        "T = V": size,
        "dense, s": median(seconds["dense"]),
        "exact, s": median(seconds["exact"]),
        "dense / exact": ratio(seconds["dense"], seconds["exact"]),
        "largest difference": (results["dense"] - results["exact"]).abs().max().item(),
        "dense, MB": round(_alone(_memory_of_scoring, side, context, size, "dense")),
        "exact, MB": round(_alone(_memory_of_scoring, side, context, size, "exact")),
    }


def scoring_forms(side: str, context: str, size: int, results: dict[str, Tensor]) -> Forms:
    """Return the two ways to score, which leave their scores in ``results``."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {"gap": {"side": side, "context": context}}
    if side == X_POOL:
        parts = {"gap": None, "pooling": {"name": "cross_attention"}}
    head = build_head(dim=DIM, max_frames=NUM_FRAMES, aggregator={"name": "mean"}, **parts).eval()
    features = _features(size)
    inputs = (*features[:3], features[3] if head.needs_words else None)

    def dense() -> None:
        results["dense"] = _dense(head, *inputs)

    def exact() -> None:
        results["exact"] = head.similarity(*inputs)

    return {"dense": dense, "exact": exact}


def ranking_forms() -> Forms:
    """Return the two ways to the ten best videos of each text."""
    torch.manual_seed(0)
    head = build_head(
        dim=DIM, max_frames=NUM_FRAMES, aggregator={"name": "mean"}, gap={"context": "frames"}
    ).eval()
    text = _features(TEXTS)[0]
    _, frames, mask, _ = _features(VIDEOS)

    def from_all_scores() -> None:
        top_videos(head.similarity(text, frames, mask).numpy(), BEST)

    def by_blocks() -> None:
        top = TopK(BEST, len(text))
        for part in blocks(len(frames), VIDEO_BLOCK):
            scores = head.similarity(text, frames[part], mask[part]).numpy()
            top.add(scores, np.arange(part.start, part.stop))
        top.best()

    return {"from all scores": from_all_scores, "block by block": by_blocks}


def _ranked(name: str) -> dict[str, Any]:
    seconds, memory = _alone(_cost_of_ranking, name)
    return {"the ten best": name, "s": seconds, "MB": round(memory)}


def _cost_of_ranking(name: str) -> tuple[float, float]:
    form = ranking_forms()[name]
    start = time.process_time()
    memory = added_memory(form)
    return time.process_time() - start, memory


def _memory_of_scoring(side: str, context: str, size: int, form: str) -> float:
    return added_memory(scoring_forms(side, context, size, {})[form])


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process of one thread."""
    with ProcessPoolExecutor(
        1, get_context("spawn"), torch.set_num_threads, (1,), max_tasks_per_child=1
    ) as pool:
        return pool.submit(function, *arguments).result()


def _features(size: int) -> tuple[Tensor, Tensor, Tensor, Words]:
    text = torch.randn(size, DIM) * 0.4
    frames = torch.randn(size, NUM_FRAMES, DIM) * 0.4
    mask = torch.arange(NUM_FRAMES) < torch.randint(1, NUM_FRAMES + 1, (size, 1))
    tokens = torch.randn(size, NUM_WORDS, DIM) * 0.4
    real = torch.arange(NUM_WORDS) < torch.randint(3, NUM_WORDS + 1, (size, 1))
    return text, frames, mask, (tokens * real[..., None], real)


@torch.no_grad()
def _dense(
    head: RetrievalHead, text: Tensor, frames: Tensor, mask: Tensor, words: Words | None
) -> Tensor:
    parts = []
    for start in range(0, len(text), TEXT_BLOCK):
        rows = slice(start, start + TEXT_BLOCK)
        own = None if words is None else (words[0][rows], words[1][rows])
        parts.append(head(text[rows], frames, mask, own).similarity)
    return torch.cat(parts)


if __name__ == "__main__":
    main()
