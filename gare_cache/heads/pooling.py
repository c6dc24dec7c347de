"""Pooling of the frames to one video vector: their mean, or weighted by the text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gare_cache.heads.cross_attention import CrossAttentionLayer, initialise
from gare_cache.heads.masking import masked_softmax, mean_pool
from gare_cache.heads.pairs import MIN_NORM
from gare_cache.heads.settings import (
    CrossAttentionSettings,
    MeanPoolingSettings,
    TextConditionedSettings,
)
from gare_cache.settings import NamedSettings


class Pooling(Protocol):
    """A pooling as a mixture: p_ij = sum_k w_ijk x_jk over the slots x_jk of video j."""

    def slots(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors that are mixed (V, P, D) and which of them are real (V, P)."""

    def weights(self, products: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
        """Return the weights of the slots along ``dim`` from ``products`` t_i . x_jk.

        Products and weights are (T, V, P), or (V, P, T) where ``dim`` is 1, and the mask broadcasts
        to them; T is 1 in the weights (1, V, P) that all texts share.
        """


@dataclass(frozen=True)
class MeanPooling:
    """The mean frame: one slot a video, weight 1.

    vbar_j = mean_k f_jk over real frames; with ``frame_norm`` of f_jk / |f_jk|, as CLIP4Clip
    (arXiv:2104.08860) averages: a long frame weighs no more than a short one.
    """

    reference_padding: bool = False
    frame_norm: bool = False

    def slots(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean as the only slot (V, 1, D), and a mask (V, 1) that is True."""
        if self.frame_norm:
            frames = F.normalize(frames, dim=-1, eps=MIN_NORM)
        mean = mean_pool(frames, mask, self.reference_padding)
        return mean[:, None], torch.ones_like(mask[:, :1])  # (V, 1, D), (V, 1)

    def weights(self, products: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
        """Return ones: the same video vector for every text."""
        return products.new_ones(1, *products.shape[1:]) if dim == -1 else products.new_ones(())


@dataclass(frozen=True)
class TextConditionedPooling:
    """Frames weighted by their product with the text.

    w_ijk = softmax_k(t_i . f_jk / temperature) over real frames, temperature 3. Source: the
    reference code of GARE, arXiv:2505.12499; the paper does not mention it. With
    ``reference_padding`` the softmax runs over all slots and is then multiplied by the mask
    without renormalising, as in the reference code: same direction, another length. It is computed
    as the softmax over real frames times their share of all slots, exp(logsumexp_real -
    logsumexp_all), so that the direction survives where the share underflows.
    """

    temperature: float
    reference_padding: bool = False

    def slots(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frames (V, F, D) and their mask (V, F)."""
        return frames, mask

    def weights(self, products: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
        """Return the weights, of the products' shape; 0 on padding."""
        scores = products / self.temperature
        weights = masked_softmax(scores, mask, dim)
        if not self.reference_padding:
            return weights
        real = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        share = real.logsumexp(dim, keepdim=True) - scores.logsumexp(dim, keepdim=True)
        return weights * share.exp()


class CrossAttentionPooling(nn.Module):
    """X-Pool: the text attends over the frames.

        p_ij = y of a ``CrossAttentionLayer`` with query t_i and context f_jk, k over real frames

    Source: X-Pool, Gorti et al., arXiv:2203.15086: every Linear starts at the identity with bias 0,
    dropout 0.3 on the last one, 1 head. Different: padded frames are not attended to.
    """

    def __init__(self, dim: int, settings: CrossAttentionSettings) -> None:
        """Build the pooling.

        Args:
            dim: width D.
            settings: ``heads``, a divisor of D, and ``dropout``, active in training mode only.

        Raises:
            ConfigError: the heads do not divide the width.
        """
        super().__init__()
        self.layer = CrossAttentionLayer(
            dim, heads=settings.heads, dropout=settings.dropout, what="head.pooling"
        )
        initialise(self, "identity")

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Pool: text (T, D), frames (V, F, D), mask (V, F) -> (T, V, D)."""
        pooled: Tensor = self.layer(text[:, None], frames, mask, context_side="video")
        return pooled


def _mean(settings: MeanPoolingSettings, *, dim: int, reference_padding: bool) -> Pooling:
    return MeanPooling(reference_padding, settings.frame_norm)


def _text_conditioned(
    settings: TextConditionedSettings, *, dim: int, reference_padding: bool
) -> Pooling:
    return TextConditionedPooling(settings.temperature, reference_padding)


def _cross_attention(
    settings: CrossAttentionSettings, *, dim: int, reference_padding: bool
) -> CrossAttentionPooling:
    return CrossAttentionPooling(dim, settings)


# Name -> what builds it; ``settings.POOLINGS`` has the settings.
POOLINGS: dict[str, Callable[..., Pooling | CrossAttentionPooling]] = {
    "mean": _mean,
    "text_conditioned": _text_conditioned,
    "cross_attention": _cross_attention,
}


def pool(pooling: Pooling, text: Tensor, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pool densely, with the pair tensor.

    Args:
        pooling: which mixture.
        text: (T, D).
        frames: (V, F, D).
        mask: (V, F) bool.

    Returns:
        The pooled videos (T, V, D) and the weights (T, V, P); T is 1 where all texts share them.
    """
    slots, slot_mask = pooling.slots(frames, mask)
    products = torch.einsum("td,vpd->tvp", text, slots)  # (T, V, P)
    weights = pooling.weights(products, slot_mask)
    return torch.einsum("tvp,vpd->tvd", weights, slots), weights  # (T, V, D), (T, V, P)


def build_pooling(
    settings: NamedSettings, *, dim: int, reference_padding: bool = False
) -> Pooling | CrossAttentionPooling:
    """Build a pooling.

    Args:
        settings: of a class of ``settings.POOLINGS``.
        dim: width D.
        reference_padding: the padding rule of GARE's reference code, which has no cross-attention.

    Raises:
        ConfigError: the settings do not fit the width.
    """
    constructor = POOLINGS[settings.name]
    return constructor(settings, dim=dim, reference_padding=reference_padding)
