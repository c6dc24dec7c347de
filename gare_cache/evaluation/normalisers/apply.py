"""Normalisers applied to both directions of a similarity, and the normalisation error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gare_cache.evaluation.metrics import (
    QueryRanks,
    Scores,
    retrieval_metrics,
    text_to_video,
    video_to_text,
)
from gare_cache.evaluation.normalisers.functions import DirectionScores, Values, log_sum_exp
from gare_cache.evaluation.normalisers.registry import NormaliserSetting, find_normaliser, normalise

_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Banks:
    """The banks of one direction, as in ``DirectionScores``."""

    queries: Scores | None = None
    gallery: Scores | None = None


@dataclass(frozen=True)
class Normalised:
    """Result of one normaliser.

    Attributes:
        ranks: by direction.
        errors: by direction, ``normalisation_error`` of the corrected scores: E_v of text to
            video, E_t of video to text.
        cautions: by direction, a caution about the scores, or an empty string.
    """

    ranks: Mapping[str, QueryRanks]
    errors: Mapping[str, float]
    cautions: Mapping[str, str]


def as_directions(
    logits: Scores,
    video_of_text: npt.NDArray[np.int64],
    *,
    scale: float | None,
    banks: Mapping[str, Banks],
) -> dict[str, DirectionScores]:
    """Arrange a (T, V) similarity as queries against gallery, once in each direction.

    A video without a text is in the gallery of text to video, but not a query of video to text.

    Args:
        logits: (T, V), texts are rows.
        video_of_text: (T,) column of each text's video.
        scale: logits / cosines; None if unknown.
        banks: by direction.

    Returns:
        ``t2v``: (T, V); ``v2t``: (videos with text, T), videos in the order of the columns.
    """
    texts = np.bincount(video_of_text, minlength=logits.shape[1])  # (V,)
    with_text = np.flatnonzero(texts)
    matrices_and_targets = {
        "t2v": (logits, texts.astype(np.float64)),
        "v2t": (logits.T[with_text], 1.0 / texts[video_of_text]),  # (Q, T), (T,)
    }
    return {
        direction: DirectionScores(
            logits=matrix,
            queries=banks[direction].queries,
            gallery=banks[direction].gallery,
            scale=scale,
            targets=targets,
        )
        for direction, (matrix, targets) in matrices_and_targets.items()
    }


def apply_normaliser(
    scores: Mapping[str, DirectionScores],
    setting: NormaliserSetting,
    video_of_text: npt.NDArray[np.int64],
    *,
    convention: str,
) -> Normalised:
    """Correct both directions, each by its own scores and banks, and rank.

    Args:
        scores: as returned by ``as_directions``.
        setting: the normaliser and its parameters.
        video_of_text: (T,) column of each text's video.
        convention: one of ``V2T_CONVENTIONS``; captions are grouped after the correction, which
            treats each caption as an item.
    """
    corrected = {direction: normalise(matrix, setting) for direction, matrix in scores.items()}
    _, query_of_text = np.unique(video_of_text, return_inverse=True)
    ranks = {
        "t2v": text_to_video(corrected["t2v"], video_of_text),
        "v2t": video_to_text(corrected["v2t"].T, query_of_text, convention=convention),
    }
    caution = find_normaliser(setting.name).caution
    return Normalised(
        ranks=ranks,
        errors={
            direction: normalisation_error(corrected[direction], of_direction.targets)
            for direction, of_direction in scores.items()
            if of_direction.targets is not None
        },
        cautions={direction: caution(of_direction) for direction, of_direction in scores.items()},
    )


def mean_recall_at_1(ranks: Mapping[str, QueryRanks]) -> float:
    """Return the mean R@1 of both directions in percent: the criterion for parameters."""
    return sum(retrieval_metrics(ranks[d])["R@1"] for d in ("t2v", "v2t")) / 2


def normalisation_error(scores: Scores, targets: Values) -> float:
    """Return mean_j |sum_i softmax_j(scores_ij) - target_j|: 0 if items are retrieved evenly.

    The softmax is taken of the scores as ranked, so errors are comparable only on one scale:
    logits, or logits with a bias per item. Source: NCL, arXiv:2212.11790.

    Args:
        scores: (Q, G).
        targets: (G,), adding up to Q.
    """
    retrieved = np.zeros(scores.shape[1])
    for start in range(0, len(scores), _BLOCK_ROWS):
        rows = scores[start : start + _BLOCK_ROWS].astype(np.float64)
        retrieved += np.exp(rows - log_sum_exp(rows, axis=1)[:, None]).sum(axis=0)  # (G,)
    return float(np.abs(retrieved - targets).mean())
