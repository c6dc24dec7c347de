"""Time the exact score against the dense one: `python benchmarks/exact_scoring.py`.

Prints a Markdown table: for each side that the increment corrects and each context that psi attends
to, median processor seconds of scoring T texts against V = T videos (D = 512, F = 12, W = 12 words
at most, one attention head), the ratio of the medians, and the largest difference between the two.
The two forms take turns, so that other work on the machine meets both. The dense score runs in
blocks of texts so that its pair tensor fits into memory. CPU, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from torch import Tensor

from gare_cache.heads.pairs import Words
from gare_cache.heads.retrieval import RetrievalHead, build_head
from gare_cache.heads.settings import CONTEXTS, SIDES

DIM, NUM_FRAMES, NUM_WORDS, TEXT_BLOCK = 512, 12, 12, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400], help="T = V")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each form")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| side | context | T = V | dense, s | exact, s | dense / exact | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for side, context, size in product(SIDES, CONTEXTS, arguments.sizes):
        torch.manual_seed(0)
        head = build_head(
            dim=DIM,
            max_frames=NUM_FRAMES,
            aggregator={"name": "mean"},
            gap={"side": side, "context": context},
        ).eval()
        features = _features(size)
        words = features[3] if head.needs_words else None
        forms: list[Callable[[], Tensor]] = [
            partial(_dense, head, *features[:3], words),
            partial(head.similarity, *features[:3], words),
        ]
        (dense_seconds, dense), (seconds, exact) = _medians(forms, arguments.rounds)
        ratio = f"{dense_seconds:.3f} | {seconds:.3f} | {dense_seconds / seconds:.1f}"
        difference = (dense - exact).abs().max().item()
        print(f"| {side} | {context} | {size} | {ratio} | {difference:.1e} |", flush=True)


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


def _medians(forms: list[Callable[[], Tensor]], rounds: int) -> list[tuple[float, Tensor]]:
    seconds: list[list[float]] = [[] for _ in forms]
    for _ in range(rounds):
        results = []
        for form, timings in zip(forms, seconds, strict=True):
            start = time.process_time()
            results.append(form())
            timings.append(time.process_time() - start)
    return [(statistics.median(t), result) for t, result in zip(seconds, results, strict=True)]


if __name__ == "__main__":
    main()
