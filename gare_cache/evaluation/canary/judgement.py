"""Exact tests of whether the number of hits at rank 1 is chance.

If the scores do not depend on the ground truth, they and the groups of captions say nothing about
which video has which group: every assignment is equally likely. Under that null hypothesis the
chance of every query is known, ties included, and so is the distribution of the number of hits.
Our own formulation: the usual exact two-sided binomial test, extended to unequal chances.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gare_cache.errors import ConfigError, GareCacheError, counted, unknown_name
from gare_cache.evaluation.metrics import V2T_CONVENTIONS, Scores

LEAST_P = 0.001

Values = npt.NDArray[np.float64]

_LEAST_PROBABILITY = 1e-300
# Outcomes whose probabilities differ by rounding alone count as equally likely.
_LEAST_SPREAD = 1e-9  # of a text's scores: below it they tie
_EQUALLY_LIKELY = 1 + 1e-7


class LeakFound(GareCacheError, RuntimeError):
    """Recall on data with random ground truth is not at chance."""

    exit_code: ClassVar[int] = 3


@dataclass(frozen=True)
class CanaryRow:
    """The outcome of one test in one direction.

    Attributes:
        test: what was scored.
        direction: ``t2v`` or ``v2t``; empty for a test of the data.
        queries: number of queries, or of videos.
        hits: number of queries with a hit at rank 1, ties broken at random; None if not counted.
        expected: mean number of hits under chance; None if not counted.
        p: two-sided p-value, exact for hits alone; None if not counted.
        passed: whether the result is compatible with a head and a scoring without a leak.
        note: what happened if there is no p-value; else empty.
        meaning: what it means if the test fails.
    """

    test: str
    direction: str
    queries: int
    hits: int | None
    expected: float | None
    p: float | None
    passed: bool
    note: str = ""
    meaning: str = (
        "The head or the scoring knows which caption belongs to which video, or miscounts ranks, "
        "so its recall is meaningless"
    )

    def __str__(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        start = f"{self.test:<30} {self.direction:<9} {self.queries:>9,}"
        if self.p is None:
            return f"{start}  {self.note}  {verdict}"
        return f"{start} {self.hits:>9,} {self.expected:>10,.1f} {self.p:>9.2g}  {verdict}"


@dataclass(frozen=True)
class Shift:
    """The standardised scores of the true pairs of a gallery, added up, and their variance."""

    total: float
    variance: float


TABLE_HEADER = f"{'test':<30} {'direction':<9} {'queries':>9} {'hits':>9} {'expected':>10} {'p':>9}"


def judge(
    test: str,
    direction: str,
    hits: Sequence[Values],
    chances: Sequence[Values],
    generator: np.random.Generator,
    shifts: Sequence[Shift] = (),
) -> CanaryRow:
    """Test the hits of several galleries against chance.

    A hit between 0 and 1 (a tie) is drawn at random, so that the number of hits is an integer and
    its distribution exact.

    Args:
        test: name of the row.
        direction: ``t2v`` or ``v2t``.
        hits: (Q,) for each gallery: the probability of rank 1 according to the metrics.
        chances: (Q,) for each gallery: the same under chance.
        generator: draws the ties.
        shifts: of the galleries; p is then twice the smaller one of hits and shift (Bonferroni).
    """
    asked, ranked = sum(map(len, chances)), sum(map(len, hits))
    if [len(h) for h in hits] != [len(c) for c in chances]:
        note = f"{ranked:,} ranks for {counted(asked, 'query')}"
        return CanaryRow(test, direction, asked, None, None, None, passed=False, note=note)
    all_hits, all_chances = np.concatenate(hits), np.concatenate(chances)
    drawn = int((generator.random(asked) < all_hits).sum())
    p = two_sided_p(drawn, all_chances)
    if shifts:
        p = min(1.0, 2 * min(p, shift_p(shifts)))
    expected = float(all_chances.sum())
    return CanaryRow(test, direction, asked, drawn, expected, p, passed=p > LEAST_P)


def text_to_video_chances(similarity: Scores) -> Values:
    """Return each caption's chance of rank 1, (T,): 1 / V, whatever ties."""
    num_texts, num_videos = similarity.shape
    return np.full(num_texts, 1 / num_videos)


def video_to_text_chances(
    similarity: Scores, video_of_text: npt.NDArray[np.int64], *, convention: str
) -> Values:
    """Return the chance of rank 1 of each video that has a caption, (Q,).

    Whichever group of captions holds the text with the highest score, it belongs to the video with
    probability 1 / Q; that is the mean over videos of their captions / T. Where m texts tie at the
    top, k_g of them in group g, the tie rules of ``metrics`` give 1 / (m - k_g + 1) to the video of
    group g under ``best_caption_of_all``, and 1 / (number of such groups) under
    ``best_caption_group``; the chance is the sum of these over g, divided by Q.

    Three texts of groups 0, 0 and 1 that all score the same: 1/2 (1/2 + 1/3) = 5/12 under the
    first convention, 1/2 under the second.

    Args:
        similarity: (T, V), texts are rows.
        video_of_text: (T,) column of each text's video.
        convention: one of ``V2T_CONVENTIONS``.

    Raises:
        ConfigError: the convention is unknown.
    """
    if convention not in V2T_CONVENTIONS:
        raise ConfigError(unknown_name("v2t convention", convention, V2T_CONVENTIONS))
    videos = np.unique(video_of_text)
    shares = np.ones(len(videos))
    if convention == "best_caption_of_all":
        columns = similarity[:, videos]  # (T, Q)
        is_top = columns == columns.max(axis=0)  # (T, Q)
        for query in np.flatnonzero(is_top.sum(axis=0) > 1):
            _, of_group = np.unique(video_of_text[is_top[:, query]], return_counts=True)
            shares[query] = (1 / (of_group.sum() - of_group + 1)).sum()
    return shares / len(videos)


def score_shift(
    similarity: Scores, video_of_text: npt.NDArray[np.int64], *, independent: bool
) -> Shift:
    """Add the scores of the true pairs, each in standard deviations of its text's scores.

    With a_ij of mean 0 and variance 1 over the videos j, chance gives sum_i a_i,true(i) a mean of 0
    and a variance of T where the texts' owners are drawn independently, and of

        1 / (V - 1) (sum_ij a_ij^2 - V sum_j (sum_i a_ij / V)^2)

    where every text has another video (the permutation distribution of Hoeffding 1951). All scores
    of a gallery count, not only the first rank: a bonus of 0.02 to true pairs is found that moves
    few of them to the first place.

    Args:
        similarity: (T, V), texts are rows.
        video_of_text: (T,) column of each text's video.
        independent: whether each text's video was drawn independently.
    """
    spread = similarity.std(axis=1, keepdims=True, dtype=np.float64)
    centred = similarity - similarity.mean(axis=1, keepdims=True, dtype=np.float64)
    known = spread[:, 0] > _LEAST_SPREAD
    scores = centred[known] / spread[known]  # (T, V)
    total = float(scores[np.arange(len(scores)), video_of_text[known]].sum())
    if independent:
        return Shift(total, float(len(scores)))
    num_videos = similarity.shape[1]
    squares = float((scores**2).sum()) - float((scores.sum(axis=0) ** 2).sum()) / num_videos
    return Shift(total, squares / (num_videos - 1))


def shift_p(shifts: Sequence[Shift]) -> float:
    """Return the two-sided p of the shifts of independent galleries, by the normal law."""
    variance = sum(shift.variance for shift in shifts)
    if variance <= 0:
        return 1.0
    return math.erfc(abs(sum(shift.total for shift in shifts)) / math.sqrt(2 * variance))


def two_sided_p(hits: int, chances: Values) -> float:
    """Return the exact two-sided p-value of a number of hits.

    It is the total probability of all numbers of hits that are at most as likely as this one.

    Args:
        hits: the number of hits.
        chances: (Q,) chance of each query, in (0, 1).
    """
    distribution = hits_distribution(chances)
    if not 0 <= hits < len(distribution):
        return 0.0
    as_unlikely = distribution <= distribution[hits] * _EQUALLY_LIKELY
    return min(1.0, float(distribution[as_unlikely].sum()))


def hits_distribution(chances: Values) -> Values:
    """Return the probability of 0, 1, 2, ... hits (Poisson binomial), cut off below 1e-300.

    Computed as the convolution of one binomial for each distinct chance; all terms are positive, so
    nothing cancels.

    Args:
        chances: (Q,) chance of each query, in (0, 1).
    """
    distribution = np.ones(1)
    for chance, count in sorted(Counter(chances.tolist()).items()):
        distribution = _trimmed(np.convolve(distribution, _binomial(count, chance)))
    return distribution


def explain_failure(rows: Sequence[CanaryRow]) -> str | None:
    """Explain the failed rows in a message; None if all passed."""
    failed = [row for row in rows if not row.passed]
    if not failed:
        return None
    first = failed[0]
    outcome = first.note or (
        f"{counted(first.hits or 0, 'hit')} where chance gives {first.expected:,.1f}, p = "
        f"{first.p:.2g}"
    )
    chance = (
        ""
        if first.p is None
        else f". By chance alone, one row in {1 / LEAST_P:,.0f} fails: a leak fails again with "
        "another --seed"
    )
    return (
        f"{len(failed)} of {len(rows):,} rows fail, the first: {first.test}"
        f"{', ' * bool(first.direction)}{first.direction}: {outcome}. {first.meaning} "
        f"(docs/canary.md){chance}"
    )


def as_values(rows: Sequence[CanaryRow]) -> list[Mapping[str, Any]]:
    """Return the rows as plain values, for JSON."""
    return [{k: v for k, v in vars(row).items() if k != "meaning"} for row in rows]


def _binomial(count: int, chance: float) -> Values:
    number = np.arange(1, count + 1)
    odds = math.log(chance) - math.log1p(-chance)
    steps = np.log((count - number + 1) / number) + odds
    log_probability = count * math.log1p(-chance) + np.concatenate([[0.0], np.cumsum(steps)])
    return _trimmed(np.exp(log_probability))


def _trimmed(distribution: Values) -> Values:
    return distribution[: np.flatnonzero(distribution > _LEAST_PROBABILITY)[-1] + 1]
