"""Contrastive losses on a batch of matching pairs; the diagonal is positive."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gare_cache.errors import ConfigError


def info_nce(
    similarity: Tensor, scale: Tensor | float, *, positives: Tensor | None = None
) -> Tensor:
    """Average the cross-entropy over rows and over columns.

    L = 1/2 ( CE over rows + CE over columns of S ), S = scale * similarity, target the diagonal:

        L = -1/(2B) sum_i [ log softmax_j(S_ij) at j = i  +  log softmax_k(S_ki) at k = i ]

    Source: GARE, arXiv:2505.12499, App. F. Rows are texts: at B = 2, similarity [[1, 0], [0, 1]]
    and scale 1, L = log(1 + exp(-1)) = 0.3133.

    Args:
        similarity: (B, B) cosines.
        scale: 1 / temperature.
        positives: (B, B) bool, True where text i describes video j. Pairs off the diagonal that
            are True are left out of the negatives; None keeps all of them as negatives, as the
            reference code does.

    Returns:
        Scalar.

    Raises:
        ConfigError: the similarity is not square, or ``positives`` is not bool of its shape.
    """
    if similarity.dim() != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ConfigError(
            f"a contrastive loss needs as many texts as videos, one pair a row; the similarity "
            f"has shape {tuple(similarity.shape)}"
        )
    logits = scale * similarity
    if positives is not None:
        if positives.dtype != torch.bool or positives.shape != similarity.shape:
            raise ConfigError(
                f"positives are {positives.dtype} of shape {tuple(positives.shape)}; they must be "
                f"torch.bool of shape {tuple(similarity.shape)}"
            )
        diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(positives & ~diagonal, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


CONTRASTIVE: dict[str, Callable[..., Tensor]] = {"info_nce": info_nce}
