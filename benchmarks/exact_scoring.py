"""Time the exact score against the dense one: `python benchmarks/exact_scoring.py`.

Prints a Markdown table: for each side that the increment corrects and each context that psi attends
to, and for X-Pool's pooling, median processor seconds of scoring T texts against V = T videos
(D = 512, F = 12, W = 12 words at most, one attention head), the median of the ratios, and the
largest difference between the two. The two forms take turns, so that other work on the machine
meets both. The dense score runs in blocks of texts so that its pair tensor fits into memory. CPU,
one thread.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from typing import Any

import torch
from measure import median, print_table, ratio, take_turns, write_results
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
    rows = []
    for side, context, size in product(SIDES, CONTEXTS, arguments.sizes):
        torch.manual_seed(0)
        head = build_head(
            dim=DIM,
            max_frames=NUM_FRAMES,
            aggregator={"name": "mean"},
            gap={"side": side, "context": context},
        ).eval()
        rows.append({"side": side, "context": context, **_compared(head, size, arguments.rounds)})
    for size in arguments.sizes:
        head = build_head(
            dim=DIM,
            max_frames=NUM_FRAMES,
            aggregator={"name": "mean"},
            pooling={"name": "cross_attention"},
            gap=None,
        ).eval()
        rows.append(
            {"side": "X-Pool", "context": "frames", **_compared(head, size, arguments.rounds)}
        )
    print_table(rows)
    write_results("exact_scoring", {"one thread": rows})


def _compared(head: RetrievalHead, size: int, rounds: int) -> dict[str, Any]:
    features = _features(size)
    inputs = (*features[:3], features[3] if head.needs_words else None)
    results: dict[str, Tensor] = {}

    def dense() -> None:
        results["dense"] = _dense(head, *inputs)

    def exact() -> None:
        results["exact"] = head.similarity(*inputs)

    seconds = take_turns({"dense": dense, "exact": exact}, rounds, time.process_time)
    return {
        "T = V": size,
        "dense, s": median(seconds["dense"]),
        "exact, s": median(seconds["exact"]),
        "dense / exact": ratio(seconds["dense"], seconds["exact"]),
        "largest difference": (results["dense"] - results["exact"]).abs().max().item(),
    }


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
