"""Pair scores: dense from the pair tensor, and exact without it.

At dropout 0 every step of the gap module after its attention is linear between LayerNorms, and a
LayerNorm's statistics of a mixture of known vectors are a quadratic form in the mixture weights.
Delta_ij is therefore a mixture of heads * F + 2 vectors that depend on the video alone, and the
score needs only products of the text with these vectors and their small Gram matrices. Own
derivation from GARE, arXiv:2505.12499; memory T V F instead of T V D.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gare_cache.errors import ConfigError
from gare_cache.heads.gap import NORM_EPS, GapModule, gap_context
from gare_cache.heads.pooling import Pooling, masked_softmax

DEFAULT_BLOCK_BYTES = 256 * 2**20
_MIN_NORM = 1e-8


@dataclass(frozen=True)
class GapBasis:
    """What V videos bring to the increment; K = heads * F, c(.) is centring over D.

    Attributes:
        mean: c(vbar_j), (V, D).
        keys: g1 * (Wq^T k_jk), centred and over sqrt(D / heads), (V, heads, F, D).
        key_mean: keys . c(vbar_j), (V, heads, F).
        key_offset: k_jk . (Wq h1 + bq) over sqrt(D / heads), (V, heads, F).
        mask: the frames attended to, (V, F) bool.
        value_gram: Gram of the centred values O_jk over D, (V, K, K).
        residual_gram: Gram of Y_jk and the constant over D, (V, K + 1, K + 1).
        vectors: Z_jk, Delta_ij = sum_k e_ijk Z_jk, (V, K + 2, D).
        vectors_gram: Z Z^T, (V, K + 2, K + 2).
        vectors_slots: Z times the pooled slots, (V, K + 2, P).
    """

    mean: Tensor
    keys: Tensor
    key_mean: Tensor
    key_offset: Tensor
    mask: Tensor
    value_gram: Tensor
    residual_gram: Tensor
    vectors: Tensor
    vectors_gram: Tensor
    vectors_slots: Tensor


@dataclass(frozen=True)
class VideoBasis:
    """What V videos bring to every score, computed once and reused for all texts.

    Attributes:
        pooling: how the slots are mixed.
        slots: (V, P, D).
        slot_mask: (V, P) bool.
        slots_gram: (V, P, P).
        gap: None where the head has no gap module.
    """

    pooling: Pooling
    slots: Tensor
    slot_mask: Tensor
    slots_gram: Tensor
    gap: GapBasis | None


def pair_cosine(anchors: Tensor, pooled: Tensor) -> Tensor:
    """Take the cosine of every pair from the pair tensors.

    cos(a_ij, p_ij), each norm clamped at 1e-8.

    Args:
        anchors: (T, V, D) or (T, 1, D).
        pooled: (T, V, D) or (1, V, D).

    Returns:
        (T, V).
    """
    products = torch.einsum("tvd,tvd->tv", anchors, pooled)
    anchor_norms: Tensor = torch.linalg.vector_norm(anchors, dim=-1)
    pooled_norms: Tensor = torch.linalg.vector_norm(pooled, dim=-1)
    return products / (anchor_norms.clamp_min(_MIN_NORM) * pooled_norms.clamp_min(_MIN_NORM))


def video_basis(
    frames: Tensor,
    mask: Tensor,
    pooling: Pooling,
    *,
    gap: GapModule | None = None,
    reference_padding: bool = False,
) -> VideoBasis:
    """Prepare the video side of the exact score.

    Args:
        frames: (V, F, D) after the aggregator.
        mask: (V, F) bool; every video has a real frame.
        pooling: the head's pooling.
        gap: the head's gap module.
        reference_padding: the gap module's padding rule.

    Returns:
        The basis of these videos, of the frames' dtype.
    """
    slots, slot_mask = pooling.slots(frames, mask)
    basis = None if gap is None else _gap_basis(gap, frames, mask, slots, reference_padding)
    return VideoBasis(pooling, slots, slot_mask, _gram(slots), basis)


def exact_scores(text: Tensor, videos: VideoBasis) -> Tensor:
    """Score every pair without the pair tensor.

    cos(t_i + Delta_ij, p_ij), or cos(t_i, p_ij) without a gap module, from t_i . x_jk,
    t_i . Z_jk and the small Grams; squared norms are clamped at 0 and norms at 1e-8.

    Args:
        text: (T, D).
        videos: the video side.

    Returns:
        (T, V) cosines.
    """
    products = _products(text, videos.slots)
    weights = videos.pooling.weights(products, videos.slot_mask)
    numerator = (weights * products).sum(dim=-1)
    pooled_square = _quadratic(weights, videos.slots_gram)
    anchor_square = text.square().sum(dim=-1, keepdim=True)
    if videos.gap is not None:
        mixture = increment_weights(text, videos.gap)
        numerator = numerator + _bilinear(mixture, videos.gap.vectors_slots, weights)
        shift = (mixture * _products(text, videos.gap.vectors)).sum(dim=-1)
        delta_square = _quadratic(mixture, videos.gap.vectors_gram)
        anchor_square = anchor_square + 2.0 * shift + delta_square
    return numerator / (_norm(anchor_square) * _norm(pooled_square))


def increment_weights(text: Tensor, gap: GapBasis) -> Tensor:
    """Compute the weights e of Delta_ij = sum_k e_ijk Z_jk.

    e_k = beta_k / (sd2 sd3) for k < K, then 1 / sd3, then 1; beta is the attention, sd2 and sd3
    the standard deviations in LN2 and LN3.

    Args:
        text: (T, D).
        gap: the video side.

    Returns:
        (T, V, K + 2).
    """
    centred = _centre(text)
    cross = centred @ gap.mean.T
    squares = gap.mean.square().sum(dim=-1) + centred.square().sum(dim=-1, keepdim=True)
    gap_deviation = _deviation((squares - 2.0 * cross) / text.shape[-1])
    projected = gap.key_mean - torch.einsum("td,vhfd->tvhf", text, gap.keys)
    logits = projected / gap_deviation[..., None, None] + gap.key_offset
    attention = masked_softmax(logits, gap.mask[:, None, :]).flatten(-2)
    mixture = attention / _deviation(_quadratic(attention, gap.value_gram))[..., None]
    mixture = torch.cat([mixture, torch.ones_like(mixture[..., :1])], dim=-1)
    mixture = mixture / _deviation(_quadratic(mixture, gap.residual_gram))[..., None]
    return torch.cat([mixture, torch.ones_like(mixture[..., :1])], dim=-1)


def exact_increment(text: Tensor, gap: GapBasis) -> Tensor:
    """Rebuild Delta (T, V, D) from its basis, for diagnostics of a few pairs.

    Args:
        text: (T, D).
        gap: the video side.
    """
    return torch.einsum("tvk,vkd->tvd", increment_weights(text, gap), gap.vectors)


def blocks(count: int, size: int) -> Iterator[slice]:
    """Cut ``range(count)`` into slices of at most ``size``."""
    return (slice(start, start + size) for start in range(0, count, size))


def block_shape(
    num_frames: int, dim: int, *, gap_heads: int, element_bytes: int, block_bytes: int
) -> tuple[int, int]:
    """Choose how many texts and videos to score at once.

    Half of the memory is for the video side, the aggregator included, and half for the pairs. The
    counts of live tensors are upper estimates.

    Args:
        num_frames: F.
        dim: D.
        gap_heads: heads of the gap module, 0 without one.
        element_bytes: bytes of one number.
        block_bytes: memory that the blocks may take; one pair at a time is the least there is.

    Returns:
        Texts and videos a block, each at least 1.

    Raises:
        ConfigError: ``block_bytes`` is not positive.
    """
    if block_bytes <= 0:
        raise ConfigError(f"block_bytes is {block_bytes!r}; it must be a positive number of bytes")
    rows = gap_heads * num_frames + 2
    video_bytes = ((20 * num_frames + 10 * rows) * dim + 6 * rows * rows) * element_bytes
    pair_bytes = (5 * num_frames + 10 * rows) * element_bytes
    num_videos = max(1, block_bytes // 2 // video_bytes)
    return max(1, block_bytes // 2 // (pair_bytes * num_videos)), num_videos


def _gap_basis(
    gap: GapModule, frames: Tensor, mask: Tensor, slots: Tensor, reference_padding: bool
) -> GapBasis:
    video_mean, attended = gap_context(frames, mask, reference_padding)
    mean = _centre(video_mean)
    keys, key_offset = _folded_keys(gap, frames)
    values = _centre(_folded_values(gap, frames)).flatten(1, 2)  # (V, K, D)
    residual = _residual(gap, values, frames.shape[0])
    vectors = torch.cat(
        [
            (residual * gap.norm3.weight) @ gap.mean_proj.weight.T,
            gap.mean_proj(gap.norm3.bias).expand(len(frames), 1, -1),
        ],
        dim=1,
    )
    return GapBasis(
        mean=mean,
        keys=keys,
        key_mean=torch.einsum("vd,vhfd->vhf", mean, keys),
        key_offset=key_offset,
        mask=attended,
        value_gram=_gram(values) / values.shape[-1],
        residual_gram=_gram(residual) / values.shape[-1],
        vectors=vectors,
        vectors_gram=_gram(vectors),
        vectors_slots=vectors @ slots.transpose(1, 2),
    )


def _folded_keys(gap: GapModule, frames: Tensor) -> tuple[Tensor, Tensor]:
    key = gap.key_proj(gap.norm1(frames)).view(
        *frames.shape[:2], gap.heads, -1
    )  # (V, F, heads, D/heads)
    key = key.transpose(1, 2) * key.shape[-1] ** -0.5
    query_weight = gap.query_proj.weight.view(gap.heads, -1, frames.shape[-1])
    keys = torch.einsum("vhfe,hed->vhfd", key, query_weight) * gap.norm1.weight
    constant = gap.query_proj(gap.norm1.bias).view(gap.heads, -1)
    return _centre(keys), torch.einsum("vhfe,he->vhf", key, constant)


def _folded_values(gap: GapModule, frames: Tensor) -> Tensor:
    value = gap.value_proj(gap.norm1(frames)).view(*frames.shape[:2], gap.heads, -1)
    out_weight = gap.out_proj.weight.view(frames.shape[-1], gap.heads, -1)  # (D, heads, D / heads)
    folded = torch.einsum("vfhe,dhe->vhfd", value, out_weight)
    return folded + gap.out_proj.bias / gap.heads


def _residual(gap: GapModule, values: Tensor, num_videos: int) -> Tensor:
    scaled = values * gap.norm2.weight
    rows = scaled + scaled @ gap.linear1.weight.T
    constant = gap.norm2.bias + gap.linear1(gap.norm2.bias)
    return _centre(torch.cat([rows, constant.expand(num_videos, 1, -1)], dim=1))


def _centre(vectors: Tensor) -> Tensor:
    return vectors - vectors.mean(dim=-1, keepdim=True)


def _gram(vectors: Tensor) -> Tensor:
    return vectors @ vectors.transpose(-2, -1)


def _products(text: Tensor, vectors: Tensor) -> Tensor:
    return torch.einsum("td,vkd->tvk", text, vectors)


def _bilinear(left: Tensor, matrices: Tensor, right: Tensor) -> Tensor:
    # left (T, V, K), matrices (V, K, P), right (T, V, P) or (1, V, P)
    mixed = torch.einsum("tvk,vkp->tvp", left, matrices)
    return (mixed * right).sum(dim=-1)


def _quadratic(weights: Tensor, gram: Tensor) -> Tensor:
    return _bilinear(weights, gram, weights)


def _deviation(variance: Tensor) -> Tensor:
    return (variance.clamp_min(0.0) + NORM_EPS).sqrt()


def _norm(square: Tensor) -> Tensor:
    return square.clamp_min(0.0).sqrt().clamp_min(_MIN_NORM)
