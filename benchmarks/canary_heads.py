"""Run the leak canary on all heads and measure how often it raises a false alarm.

`python benchmarks/canary_heads.py` prints two Markdown tables: random features scored by every
aggregator, pooling and gap module in the registries, each head with random weights; and, over many
seeds, the shares of p-values up to 0.5, 0.1, 0.01 and 0.001 for scores without a head, with hubs,
and where all tie, each with 20 galleries a test.
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np
import torch

from gare_cache.data.split import FeatureSplit
from gare_cache.evaluation.canary.checks import GALLERIES, Score, check_random_features, run_trials
from gare_cache.evaluation.canary.judgement import CanaryRow
from gare_cache.evaluation.canary.trials import ORDERS, random_trial
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.evaluation.similarity import Similarity
from gare_cache.heads.aggregators import AGGREGATORS
from gare_cache.heads.pooling import POOLINGS
from gare_cache.heads.retrieval import build_head

DIM, NUM_FRAMES, FEW_GALLERIES = 32, 6, 20
SETTINGS = EvaluateSettings()
LEVELS = (0.5, 0.1, 0.01, 0.001)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--galleries", type=int, default=GALLERIES, help="of each head and order")
    parser.add_argument("--seeds", type=int, default=2000, help="of each kind of scores")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _print_heads(arguments.galleries)
    print()
    _print_calibration(arguments.seeds)


def _print_heads(galleries: int) -> None:
    names = [f"{order} {direction}" for order in ORDERS for direction in ("t2v", "v2t")]
    print(f"| aggregator | pooling | gap | {' | '.join(names)} |")
    print(f"|---|---|---|{'---|' * len(names)}")
    for aggregator, pooling, gap in product(AGGREGATORS, POOLINGS, (None, {})):
        torch.manual_seed(0)
        head = build_head(
            dim=DIM,
            max_frames=NUM_FRAMES,
            aggregator={"name": aggregator},
            pooling={"name": pooling},
            gap=gap,
        )
        rows = check_random_features(head.eval(), SETTINGS, galleries=galleries)
        cells = " | ".join(map(_cell, rows))
        print(f"| {aggregator} | {pooling} | {'no' if gap is None else 'yes'} | {cells} |")


def _cell(row: CanaryRow) -> str:
    return f"{row.hits} of {row.queries:,} ({row.expected:.0f}), p {row.p:.2g}"


def _print_calibration(seeds: int) -> None:
    print("| scores | direction | seeds | " + " | ".join(f"p <= {p}" for p in LEVELS) + " |")
    print("|---|---|---|" + "---|" * len(LEVELS))
    kinds = {"independent": _independent, "hubs": _hubs, "all tie": _constant}
    for name, order in product(kinds, ORDERS):
        p_values: dict[str, list[float]] = {"t2v": [], "v2t": []}
        for seed in range(seeds):
            for row in _rows(kinds[name], order, seed):
                p_values[row.direction].append(np.nan if row.p is None else row.p)
        for direction, values in p_values.items():
            shares = " | ".join(f"{100 * np.mean(np.array(values) <= p):.2f} %" for p in LEVELS)
            print(f"| {name}, {order} | {direction} | {seeds:,} | {shares} |")


def _rows(score: Score, order: str, seed: int) -> list[CanaryRow]:
    generator = np.random.default_rng([seed, 7])
    trials = (
        random_trial(generator, order=order, dim=8, max_frames=1) for _ in range(FEW_GALLERIES)
    )
    return run_trials("", trials, score, SETTINGS, generator=generator)


def _independent(split: FeatureSplit) -> Similarity:
    cosines: Similarity = (split.text @ split.frames[:, 0].T).numpy()
    return cosines


def _hubs(split: FeatureSplit) -> Similarity:
    by_length = 4 * split.frames[:, 0, 0] + 4 * split.text[:, :1]
    hubs: Similarity = (split.text @ split.frames[:, 0].T + by_length).numpy()
    return hubs


def _constant(split: FeatureSplit) -> Similarity:
    return np.zeros((len(split.text), len(split.frames)), dtype=np.float32)


if __name__ == "__main__":
    main()
