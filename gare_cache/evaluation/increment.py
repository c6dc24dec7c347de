"""Length and angles of the increment, cheap enough to compute after every epoch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gare_cache.data.split import FeatureSplit
from gare_cache.errors import ConfigError
from gare_cache.evaluation.modality_gap import MatchedPairs, Vectors, matched_pairs
from gare_cache.heads.pairs import PairVectors
from gare_cache.heads.pooled import PooledInteraction
from gare_cache.heads.retrieval import RetrievalHead


def has_increment(head: RetrievalHead) -> bool:
    """Say whether a head adds an increment to one side of its pairs."""
    interaction = head.interaction
    return isinstance(interaction, PooledInteraction) and interaction.gap is not None


def require_delta(vectors: PairVectors) -> Tensor:
    """Return the increments of pairs.

    Raises:
        ConfigError: the head has none.
    """
    if vectors.delta is None:
        raise ConfigError("the head has no increment to diagnose; train one with head.gap")
    return vectors.delta


def split_pairs(head: RetrievalHead, split: FeatureSplit) -> MatchedPairs:
    """Compute the vectors that a head compares for every text of a split and its video."""
    return matched_pairs(
        head,
        split.text,
        split.frames,
        split.mask,
        split.video_of_text,
        words=split.words_of if head.needs_words else None,
    )


def increment_figures(head: RetrievalHead, split: FeatureSplit) -> dict[str, float] | None:
    """Return length and angles of the increments of a split's matched pairs.

    Draws no random number and changes no weight.

    Args:
        head: in evaluation mode, on the device of the split.
        split: usually with one caption per video.

    Returns:
        Means over the pairs: ``angle to gap`` and ``angle to text`` in degrees, the gap being
        p_ij - t_i with the video as pooled for the text, and ``length`` of the increment. None
        for a head without increment.
    """
    pairs = split_pairs(head, split) if has_increment(head) else None
    if pairs is None or pairs.delta is None:
        return None
    delta = pairs.delta
    return {
        "angle to gap": float(angles(delta, pairs.video - pairs.text).mean()),  # over (T,)
        "angle to text": float(angles(delta, pairs.text).mean()),
        "length": float(np.linalg.norm(delta.astype(np.float64), axis=1).mean()),
    }


def angles(first: Vectors, second: Vectors) -> npt.NDArray[np.float64]:
    """Return the angle in degrees of each pair of rows of (N, D); 90 where a row is zero."""
    pairs = [rows.astype(np.float64) for rows in (first, second)]
    lengths = np.prod([np.linalg.norm(rows, axis=1) for rows in pairs], axis=0)  # (N,)
    cosines = (pairs[0] * pairs[1]).sum(axis=1) / np.maximum(lengths, 1e-24)  # (N,)
    degrees: npt.NDArray[np.float64] = np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
    return degrees
