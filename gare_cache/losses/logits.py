"""Scaled scores of a batch of pairs, known false negatives left out."""

from __future__ import annotations

import torch
from torch import Tensor

from gare_cache.errors import ConfigError


def pair_logits(similarity: Tensor, scale: Tensor | float, positives: Tensor | None) -> Tensor:
    """Return S = scale * similarity with -inf on the pairs that are no negatives.

    Args:
        similarity: (B, B) cosines, pair i on row and column i.
        scale: 1 / temperature.
        positives: (B, B) bool, True where text i describes video j; None leaves nothing out.

    Returns:
        (B, B). The diagonal is always finite where the similarity is, so no row or column is
        empty; the gradient at a pair left out is 0.

    Raises:
        ConfigError: the similarity is not square, or ``positives`` is not bool of its shape.
    """
    if similarity.dim() != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ConfigError(
            f"a contrastive loss needs as many texts as videos, one pair a row; the similarity "
            f"has shape {tuple(similarity.shape)}"
        )
    logits = scale * similarity
    if positives is None:
        return logits
    if positives.dtype != torch.bool or positives.shape != similarity.shape:
        raise ConfigError(
            f"positives are {positives.dtype} of shape {tuple(positives.shape)}; they must be "
            f"torch.bool of shape {tuple(similarity.shape)}"
        )
    diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return logits.masked_fill(positives & ~diagonal, -torch.inf)
