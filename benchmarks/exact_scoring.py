"""Time the exact score against the dense one: `python benchmarks/exact_scoring.py`.

Prints a Markdown table: median seconds of scoring T texts against V = T videos (D = 512, F = 12,
one attention head), the ratio, and the largest difference between the two. The dense score runs in
blocks of texts so that its pair tensor fits into memory. CPU, two threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gare_cache.heads.retrieval import RetrievalHead, build_head

DIM, NUM_FRAMES, REPEATS, TEXT_BLOCK = 512, 12, 3, 20
SIZES = (100, 400)


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    head = build_head(
        dim=DIM, max_frames=NUM_FRAMES, aggregator={"name": "mean"}, gap={"heads": 1}
    ).eval()
    print("| T = V | dense, s | exact, s | dense / exact | largest difference |")
    print("|---|---|---|---|---|")
    for size in SIZES:
        text = torch.randn(size, DIM) * 0.4
        frames = torch.randn(size, NUM_FRAMES, DIM) * 0.4
        mask = torch.arange(NUM_FRAMES) < torch.randint(1, NUM_FRAMES + 1, (size, 1))
        dense_seconds, dense = _median(partial(_dense, head, text, frames, mask))
        exact_seconds, exact = _median(partial(head.similarity, text, frames, mask))
        difference = (dense - exact).abs().max().item()
        seconds = f"{dense_seconds:.3f} | {exact_seconds:.3f}"
        print(f"| {size} | {seconds} | {dense_seconds / exact_seconds:.1f} | {difference:.1e} |")


@torch.no_grad()
def _dense(head: RetrievalHead, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([head(rows, frames, mask).similarity for rows in text.split(TEXT_BLOCK)])


def _median(score: Callable[[], Tensor]) -> tuple[float, Tensor]:
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = score()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


if __name__ == "__main__":
    main()
