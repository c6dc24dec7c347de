"""The ledger of normalisers: scores and cautions of each, with the raw scores first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.evaluation.metrics import DIRECTIONS, QueryRanks
from gare_cache.evaluation.normalisers.apply import Normalised
from gare_cache.evaluation.normalisers.registry import (
    RAW,
    NormaliserSetting,
)
from gare_cache.evaluation.results import MethodResult, PairedDifference

ERROR = "normalisation error"
DIFFERENCE = "R@1 - raw"

Ranks = Mapping[str, QueryRanks]
Score = Callable[[Ranks], MethodResult]
Differ = Callable[[Ranks, Ranks], Mapping[str, PairedDifference]]


def ledger_rows(
    applied: Sequence[tuple[NormaliserSetting, Mapping[str, Any] | None, Normalised]],
    *,
    score: Score,
    differ: Differ,
) -> list[dict[str, Any]]:
    """Return the JSON-able rows of the ledger, one per normaliser.

    Args:
        applied: each normaliser, how its parameters were chosen (None if they were given), and its
            result; the raw scores first.
        score: ranks by direction -> scores by direction.
        differ: ranks and raw ranks -> paired difference of R@1 by direction.
    """
    raw = applied[0][2].ranks
    rows = []
    for setting, chosen, normalised in applied:
        scores = score(normalised.ranks)
        by_direction = {d: {**scores[d].to_json(), ERROR: normalised.errors[d]} for d in DIRECTIONS}
        if setting.kind != RAW:
            for direction, difference in differ(normalised.ranks, raw).items():
                by_direction[direction][DIFFERENCE] = difference.to_json()
        rows.append(
            {
                "name": setting.name,
                "kind": setting.kind,
                "parameters": dict(setting.parameters),
                "title": setting.title,
                "chosen": chosen,
                "cautions": {d: text for d, text in normalised.cautions.items() if text},
                **by_direction,
            }
        )
    return rows


def texts_a_video(video_of_text: npt.NDArray[np.int64]) -> list[int]:
    """Return the smallest and largest number of texts of a video, among those with texts."""
    counts = np.unique(video_of_text, return_counts=True)[1]
    return [int(counts.min()), int(counts.max())]
