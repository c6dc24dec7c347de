"""Inputs and results of scoring text-video pairs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# Word tokens (T, W, D), zero on padding, and (T, W) bool, True where a token is real.
Words = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class PairScores:
    """Scores and increments of all pairs of a batch, the input of the losses.

    Attributes:
        similarity: cosines (T, V), not scaled.
        delta: increments (T, V, D), None without a gap module.
    """

    similarity: Tensor
    delta: Tensor | None


@dataclass(frozen=True)
class PairVectors:
    """The vectors whose cosines are the scores of an interaction that pools.

    Attributes:
        text: (T, D).
        video: (T, V, D), or (1, V, D) where all texts share it.
        delta: increments (T, V, D), None without a gap module.
    """

    text: Tensor
    video: Tensor
    delta: Tensor | None
