"""Measure the error rates of `gare-cache compare`: `python benchmarks/compare_simulation.py`.

Draws pairs of methods from a probit model: a query is answered where the sum of its difficulty
(shared by everything), a part of method and video, a shift of the seed and noise of seed and query
is above a threshold. 45 % are answered, and two runs differ on a quarter of the queries. Between
the methods there is no difference (or one of --gain points). Prints, as Markdown, the share of
pairs that each procedure calls different at 5 %. Takes a few minutes on one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from gare_cache.evaluation.comparison.differences import LEVEL, compare_runs, compare_seeds
from gare_cache.evaluation.significance import recall_interval

RECALL = 0.45
SPREAD = 0.5  # of the part of method and video, and of the noise; that of the difficulty is 1

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Null:
    """One setting: V videos, captions a video, seeds of each method, and what a seed shifts.

    ``seed_points`` is the standard deviation over seeds of a method's recall on endless test data.
    """

    num_videos: int
    num_captions: int
    num_seeds: tuple[int, int]
    seed_points: float


ONE_CAPTION = [
    *(Null(num_videos, 1, (1, 1), 0) for num_videos in (20, 50, 200, 1000)),
    *(Null(1000, 1, (1, 1), points) for points in (0.5, 1, 2)),
    *(Null(200, 1, (s, s), points) for s in (2, 3, 5) for points in (0, 0.5, 1, 2, 5)),
    *(Null(1000, 1, (s, s), points) for s in (2, 3, 5) for points in (0, 1, 2)),
    *(Null(200, 1, (2, 10), points) for points in (0, 1, 2, 5)),
]
TWENTY_CAPTIONS = [
    *(Null(num_videos, 20, (1, 1), 0) for num_videos in (20, 50, 200)),
    *(Null(100, 20, (s, s), points) for s in (2, 3) for points in (0, 1, 2)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--gain", type=float, default=0.0, help="true difference, in points")
    arguments = parser.parse_args()
    print("| videos x captions | seeds | seed's sd, points | compare | captions | videos + seeds |")
    print("|---|---|---|---|---|---|")
    for row, null in enumerate((*ONE_CAPTION, *TWENTY_CAPTIONS)):
        rates = false_alarms(null, pairs=arguments.pairs, gain=arguments.gain, seed=row)
        cells = [f"{100 * rate:.1f}" if rate is not None else "" for rate in rates]
        print(
            f"| {null.num_videos:,} x {null.num_captions} | {null.num_seeds[0]}, "
            f"{null.num_seeds[1]} | {null.seed_points} | {' | '.join(cells)} |",
            flush=True,
        )


def false_alarms(
    null: Null, *, pairs: int, gain: float = 0.0, seed: int = 0
) -> tuple[float, float | None, float | None]:
    """Return the share of pairs called different by three procedures.

    Returns:
        Of ``compare``; of a bootstrap that resamples captions (where there are several); of a
        percentile bootstrap that resamples videos and seeds (where there are several).
    """
    video = np.repeat(np.arange(null.num_videos), null.num_captions)
    drawn = list(_draw_pairs(null, pairs=pairs, gain=gain, seed=seed))
    by_videos_and_seeds = None
    by_captions = None
    if max(null.num_seeds) > 1:
        alarms = [compare_seeds(a, b, video).p_value < LEVEL for a, b in drawn]
        by_videos_and_seeds = _resampling_both(drawn, null, seed=seed)
    else:
        hits, other = (np.stack([pair[side][0] for pair in drawn], axis=1) for side in (0, 1))
        found = compare_runs(hits, other, video, resamples=2000, seed=seed)
        alarms = [difference.p_value < LEVEL for difference in found]
        if null.num_captions > 1:
            alone = np.arange(len(video))
            few = (hits - other).T[:300]
            ends = [recall_interval(row, alone, resamples=300, seed=seed) for row in few]
            by_captions = float(np.mean([low > 0 or high < 0 for low, high in ends]))
    return float(np.mean(alarms)), by_captions, by_videos_and_seeds


def _draw_pairs(
    null: Null, *, pairs: int, gain: float, seed: int
) -> Iterator[tuple[Values, Values]]:
    """Yield (S, Q) and (S', Q) hits of two methods; half of the difficulty is the video's."""
    generator = np.random.default_rng(seed)
    total = math.sqrt(1 + 2 * SPREAD**2)
    threshold = NormalDist().inv_cdf(RECALL) * total
    points = 100 * NormalDist().pdf(threshold / total) / total  # a unit of the sum, in points
    shape = (null.num_videos, null.num_captions)
    for _ in range(pairs):
        difficulty = generator.normal(size=(shape[0], 1)) * math.sqrt(0.5)
        difficulty = difficulty + generator.normal(size=shape) * math.sqrt(0.5)
        hits = []
        for num_seeds, better in zip(null.num_seeds, (gain, 0.0), strict=True):
            of_video = generator.normal(size=(shape[0], 1)) * SPREAD
            shift = generator.normal(size=(num_seeds, 1, 1)) * null.seed_points / points
            noise = generator.normal(size=(num_seeds, *shape)) * SPREAD
            answered = threshold + better / points + difficulty + of_video + shift + noise > 0
            hits.append(answered.reshape(num_seeds, -1).astype(np.float64))
        yield hits[0], hits[1]


def _resampling_both(drawn: list[tuple[Values, Values]], null: Null, *, seed: int) -> float:
    """Resample videos and, with replacement, each method's seeds; percentile interval."""
    generator = np.random.default_rng(seed)
    resamples, few = 500, drawn[:500]

    def weights(count: int) -> Values:
        return generator.multinomial(count, np.full(count, 1 / count), resamples) / count

    of_video, of_seed = weights(null.num_videos), [weights(s) for s in null.num_seeds]
    alarms = 0
    for pair in few:
        means = [hits.reshape(len(hits), null.num_videos, -1).mean(axis=2) for hits in pair]
        ours, theirs = (
            ((of_video @ mean.T) * by_seed).sum(axis=1)
            for mean, by_seed in zip(means, of_seed, strict=True)
        )
        low, high = np.percentile(ours - theirs, [2.5, 97.5])
        alarms += bool(low > 0 or high < 0)
    return alarms / len(few)


if __name__ == "__main__":
    main()
