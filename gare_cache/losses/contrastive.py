"""Contrastive losses on a batch of matching pairs, by name; the diagonal is positive."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gare_cache.losses.custom_loss import build_custom_loss
from gare_cache.losses.logits import pair_logits
from gare_cache.losses.ncl import ncl
from gare_cache.settings import CustomSettings, NamedSettings, arguments

ContrastiveLoss = Callable[..., Tensor]


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
    logits = pair_logits(similarity, scale, positives)
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


# Name -> loss, called with the settings of ``settings.CONTRASTIVE`` by name.
CONTRASTIVE: dict[str, ContrastiveLoss] = {
    "info_nce": info_nce,
    "ncl": ncl,
}


def build_contrastive(settings: NamedSettings) -> ContrastiveLoss:
    """Bind a contrastive loss to its settings.

    Args:
        settings: of a built-in loss, or of a function of the user's own.

    Returns:
        A function (similarity (B, B), scale, positives=None or (B, B) bool) -> scalar.

    Raises:
        ConfigError: a user's loss cannot be imported or called.
    """
    if isinstance(settings, CustomSettings):
        return build_custom_loss(settings)
    return functools.partial(CONTRASTIVE[settings.name], **arguments(settings))
