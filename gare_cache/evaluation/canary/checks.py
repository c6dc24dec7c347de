"""Leak checks of a head and of the scoring: random features, tied scores, permuted ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gare_cache.data.split import FeatureSplit
from gare_cache.errors import ConfigError
from gare_cache.evaluation.canary.judgement import (
    CanaryRow,
    Shift,
    judge,
    score_shift,
    text_to_video_chances,
    video_to_text_chances,
)
from gare_cache.evaluation.canary.trials import (
    ORDERS,
    Trial,
    permuted_trials,
    random_trial,
)
from gare_cache.evaluation.leaks import describe_copies
from gare_cache.evaluation.metrics import (
    DIRECTIONS,
    NonFiniteScores,
    QueryRanks,
    both_directions,
    text_to_video,
    video_to_text,
)
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.evaluation.similarity import Similarity, score_split
from gare_cache.heads.retrieval import RetrievalHead

GALLERIES = 200
Score = Callable[[FeatureSplit], Similarity]


def _quiet(_: int) -> None:
    """Show no progress."""


def check_random_features(
    head: RetrievalHead,
    settings: EvaluateSettings,
    *,
    galleries: int = GALLERIES,
    seed: int = 0,
    device: torch.device | None = None,
    on_trial: Callable[[int], None] = _quiet,
) -> list[CanaryRow]:
    """Test a head on random features, with texts in shuffled and in listed order.

    Args:
        head: anything with the ``settings``, ``needs_words`` and ``similarity`` of a head.
        settings: how evaluation ranks.
        galleries: number of independent galleries for each order.
        seed: random seed.
        device: where to score; the CPU by default.
        on_trial: called with 1 after each gallery.
    """
    rows: list[CanaryRow] = []
    for order in ORDERS:
        generator = np.random.default_rng([seed, len(rows)])
        trials = (
            random_trial(
                generator,
                order=order,
                dim=head.settings["dim"],
                max_frames=head.settings["max_frames"],
                words=head.needs_words,
                device=device,
            )
            for _ in range(galleries)
        )
        rows += run_trials(
            f"random features, {order}",
            trials,
            lambda split: score_split(head, split),
            settings,
            generator=generator,
            on_trial=on_trial,
        )
    return rows


def check_ranking(
    settings: EvaluateSettings,
    *,
    galleries: int = GALLERIES,
    seed: int = 0,
    on_trial: Callable[[int], None] = _quiet,
) -> list[CanaryRow]:
    """Test the ranking on scores that all tie, and on NaN, which must be refused.

    Args:
        settings: how evaluation ranks.
        galleries: number of independent galleries for each order.
        seed: random seed.
        on_trial: called with 1 after each gallery.
    """
    rows: list[CanaryRow] = []
    for order in ORDERS:
        generator = np.random.default_rng([seed, 100 + len(rows)])
        trials = (
            random_trial(generator, order=order, dim=1, max_frames=1) for _ in range(galleries)
        )
        rows += run_trials(
            f"constant scores, {order}",
            trials,
            _constant,
            settings,
            generator=generator,
            on_trial=on_trial,
        )
    split = random_trial(np.random.default_rng(seed), order="shuffled", dim=1, max_frames=1).split
    return [*rows, *_refusals(split, settings)]


def check_permuted_ids(
    test: str,
    head: RetrievalHead,
    split: FeatureSplit,
    settings: EvaluateSettings,
    *,
    seed: int = 0,
    on_trial: Callable[[int], None] = _quiet,
) -> list[CanaryRow]:
    """Test a head on real features whose video ids are permuted, in evaluation's order.

    Args:
        test: name of the rows.
        head: the head.
        split: the features.
        settings: how evaluation ranks.
        seed: random seed.
        on_trial: called with 1 after each permutation.

    Raises:
        ConfigError: fewer than two videos have captions.
    """
    if len(np.unique(split.video_of_text.cpu().numpy())) < 2:
        raise ConfigError(
            f"fewer than two videos of the {split.name} split have captions; the canary has "
            "nothing to permute: set evaluate.split to a larger one"
        )
    generator = np.random.default_rng([seed, 200])
    return run_trials(
        test,
        permuted_trials(split, generator),
        lambda permuted: score_split(head, permuted),
        settings,
        generator=generator,
        on_trial=on_trial,
    )


def check_splits(leaks: Mapping[str, Any], split: str) -> CanaryRow:
    """Test that no scored video is also in another split; near-identical ones are only counted.

    Args:
        leaks: result of ``evaluation.leaks.find_leaks``.
        split: name of the scored split.
    """
    found = list(describe_copies(leaks))
    near = ", ".join(f"{part['near']['videos']:,} as in {other}" for other, part in leaks.items())
    counts = f"nearly the same: {near}" if near else "there is no other split"
    return CanaryRow(
        test="copies in other splits",
        direction="",
        queries=next((part["videos"] for part in leaks.values()), 0),
        hits=None,
        expected=None,
        p=None,
        passed=not found,
        note="; ".join(found) or f"none ({counts})",
        meaning=(
            f"The head was trained or selected on what the {split} split scores: take the copies "
            "out of the annotations, or put them into one split"
        ),
    )


def run_trials(
    test: str,
    trials: Iterable[Trial],
    score: Score,
    settings: EvaluateSettings,
    *,
    generator: np.random.Generator,
    on_trial: Callable[[int], None] = _quiet,
) -> list[CanaryRow]:
    """Score and rank trials as evaluation does and test the hits; one row per direction.

    Args:
        test: name of the rows.
        trials: splits whose ground truth is random.
        score: split -> similarity (T, V).
        settings: how evaluation ranks.
        generator: breaks ties.
        on_trial: called with 1 after each trial.
    """
    hits: dict[str, list[npt.NDArray[np.float64]]] = {d: [] for d in DIRECTIONS}
    chances: dict[str, list[npt.NDArray[np.float64]]] = {d: [] for d in DIRECTIONS}
    shifts: list[Shift] = []  # one score a pair: the same in both directions
    for trial in trials:
        similarity = score(trial.split)
        ranks = _rank(similarity, trial.split, settings)
        chance = {
            "t2v": text_to_video_chances(similarity),
            "v2t": video_to_text_chances(
                similarity,
                trial.split.video_of_text.cpu().numpy(),
                convention=settings.v2t_convention,
            ),
        }
        for direction, counted in (("t2v", trial.texts), ("v2t", trial.videos)):
            all_hits = ranks[direction].hits(1)  # (Q,)
            whole = len(all_hits) == len(chance[direction])
            hits[direction].append(all_hits[counted] if whole else all_hits)
            chances[direction].append(chance[direction][counted] if whole else chance[direction])
        shifts.append(
            score_shift(
                similarity[trial.texts],
                trial.split.video_of_text.cpu().numpy()[trial.texts],
                independent=trial.independent,
            )
        )
        on_trial(1)
    return [
        judge(test, d, hits[d], chances[d], generator, shifts if d == "t2v" else ())
        for d in DIRECTIONS
    ]


def _refusals(split: FeatureSplit, settings: EvaluateSettings) -> list[CanaryRow]:
    similarity = _constant(split)
    similarity[::7, 0] = np.nan
    truth = split.video_of_text.cpu().numpy()
    attempts: dict[str, Callable[[], Any]] = {
        "t2v": lambda: text_to_video(similarity, truth),
        "v2t": lambda: video_to_text(similarity, truth, convention=settings.v2t_convention),
    }
    rows = []
    for direction, attempt in attempts.items():
        refused = _refuses(attempt) and _refuses(lambda: _rank(similarity, split, settings))
        rows.append(
            CanaryRow(
                test="scores that hold NaN",
                direction=direction,
                queries=len(np.unique(truth)) if direction == "v2t" else len(truth),
                hits=None,
                expected=None,
                p=None,
                passed=refused,
                note="refused, as they must be" if refused else "NaN was ranked or dropped",
            )
        )
    return rows


def _rank(
    similarity: Similarity, split: FeatureSplit, settings: EvaluateSettings
) -> dict[str, QueryRanks]:
    video_of_text = split.video_of_text.cpu().numpy()
    return both_directions(similarity, video_of_text, convention=settings.v2t_convention)


def _refuses(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except NonFiniteScores:
        return True
    return False


def _constant(split: FeatureSplit) -> Similarity:
    return np.zeros((len(split.text), len(split.frames)), dtype=np.float32)
