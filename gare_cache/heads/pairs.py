"""Inputs and results of scoring text-video pairs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# Norms are at least this.
MIN_NORM = 1e-8

# Word tokens (T, W, D), zero on padding, and (T, W) bool, True where a token is real.
Words = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class PairMixture:
    """Delta_ij = sum_k e_ijk Z_nk, n = j where the vectors belong to the videos, else i.

    Attributes:
        weights: e, (T, V, K).
        vectors: Z, (N, K, D).
        vectors_gram: Z Z^T, (N, K, K).
        squares: |Delta|^2, (T, V).
        context_side: ``"video"`` or ``"text"``: what the N items are.
    """

    weights: Tensor
    vectors: Tensor
    vectors_gram: Tensor
    squares: Tensor
    context_side: str


@dataclass(frozen=True)
class PairScores:
    """Scores and increments of all pairs of a batch, the input of the losses.

    Attributes:
        similarity: cosines (T, V), not scaled.
        delta: increments (T, V, D), as a tensor or as mixtures; None without a gap module.
        cancelled: (T, V) bool, True where an item and its increment nearly cancel and the score was
            left inexact, as ``pair_scores`` was asked to; None where all scores are right.
    """

    similarity: Tensor
    delta: Tensor | PairMixture | None
    cancelled: Tensor | None = None


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
