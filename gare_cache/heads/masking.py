"""Means and softmaxes over the real entries of padded rows."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_pool(frames: Tensor, mask: Tensor, reference_padding: bool = False) -> Tensor:
    """Average the real frames of each video.

    vbar_j = sum_k m_jk f_jk / sum_k m_jk. A video without a real frame gets 0, never NaN.

    Args:
        frames: (V, F, D).
        mask: (V, F) bool, True on real frames.
        reference_padding: average all slots, padded ones included, as GARE's reference code does.

    Returns:
        (V, D).
    """
    weights = (torch.ones_like(mask) if reference_padding else mask).to(frames.dtype)
    total = torch.einsum("vf,vfd->vd", weights, frames)  # (V, D)
    return total / weights.sum(dim=1, keepdim=True).clamp_min(1.0)


def masked_softmax(scores: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Take the softmax of a dimension over the places where ``mask`` is True.

    Places outside the mask, and whole rows without a place inside it, get 0 and a zero gradient.

    Args:
        scores: (..., F).
        mask: bool, broadcastable to ``scores``.
        dim: the dimension, the last one unless another is given.

    Returns:
        Same shape as ``scores``.
    """
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(dim=dim) * mask
