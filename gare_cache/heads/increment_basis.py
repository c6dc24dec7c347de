"""The increment of every pair as a mixture of vectors that belong to one side alone.

At dropout 0 every step of a gap layer after its attention is linear between LayerNorms, and a
LayerNorm's statistics of a mixture of known vectors are a quadratic form in the mixture weights.
Delta_ij is therefore a mixture of heads * C + 2 vectors that depend on the side of the context
alone: on the video where psi attends to its C frames, on the text where psi attends to its C words.
Own derivation from GARE, arXiv:2505.12499, for one layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gare_cache.heads.cross_attention import CONTEXT_LETTERS, NORM_EPS, CrossAttentionLayer
from gare_cache.heads.gap import GapModule
from gare_cache.heads.masking import masked_softmax


@dataclass(frozen=True)
class IncrementBasis:
    """The increment as seen from the N items that supply the context.

    K = heads * C, and c(.) subtracts the mean over D.

    Attributes:
        context_side: ``"video"`` or ``"text"``: what the N items are.
        eta: sign of the gap.
        keys: g1 * (Wq^T k), centred and over sqrt(D / heads), (N, heads, C, D).
        key_own: keys . x, (N, heads, C); x is c(vbar_j) of a video, t_i of a text.
        key_offset: k . (Wq h1 + bq) over sqrt(D / heads), (N, heads, C).
        mask: what is attended to, (N, C) bool.
        value_gram: Gram of the centred values O over D, (N, K, K).
        residual_gram: Gram of Y and the constant over D, (N, K + 1, K + 1).
        vectors: Z, Delta_ij = sum_k e_ijk Z_k, (N, K + 2, D).
        vectors_gram: Z Z^T, (N, K + 2, K + 2).
        products: Z times what the item alone brings to the score, (N, K + 2, P): the P pooled
            slots of a video, or t_i of a text, P = 1.
    """

    context_side: str
    eta: int
    keys: Tensor
    key_own: Tensor
    key_offset: Tensor
    mask: Tensor
    value_gram: Tensor
    residual_gram: Tensor
    vectors: Tensor
    vectors_gram: Tensor
    products: Tensor


def increment_basis(
    gap: GapModule, context: Tensor, mask: Tensor, *, gap_part: Tensor, scored: Tensor
) -> IncrementBasis:
    """Prepare the side that supplies the context.

    Args:
        gap: a module of one layer.
        context: (N, C, D) frames of N videos or words of N texts.
        mask: (N, C) bool, what is attended to.
        gap_part: the items' part of the gap: c(vbar_j), or t_i, (N, D); one row where all share it.
        scored: the items' part of the score: pooled slots (N, P, D), or t_i (N, 1, D).

    Raises:
        ConfigError: the module has more than one layer.
    """
    layer = gap.only_layer()
    keys, key_offset = _folded_keys(layer, context)
    values = centre(_folded_values(layer, context)).flatten(1, 2)  # (N, K, D)
    residual = _residual(layer, values, len(context))
    vectors = torch.cat(
        [
            (residual * layer.norm3.weight) @ gap.mean_proj.weight.T,
            gap.mean_proj(layer.norm3.bias).expand(len(context), 1, -1),
        ],
        dim=1,
    )  # (N, K + 2, D)
    return IncrementBasis(
        context_side=gap.context_side,
        eta=-1 if gap.query == "text" else gap.eta,
        keys=keys,
        key_own=torch.einsum("nd,nhcd->nhc", gap_part.expand(len(context), -1), keys),
        key_offset=key_offset,
        mask=mask,
        value_gram=gram(values) / values.shape[-1],
        residual_gram=gram(residual) / values.shape[-1],
        vectors=vectors,
        vectors_gram=gram(vectors),
        products=vectors @ scored.transpose(1, 2),
    )


def centred_mean(gap: GapModule, frames: Tensor, mask: Tensor) -> Tensor:
    """Return c(vbar_j), (V, D); without a gap vbar = 0, one row for all videos.

    The query t_i is then the gap with vbar = 0 and eta = -1.
    """
    if gap.query == "text":
        return frames.new_zeros(1, frames.shape[-1])
    return centre(gap.video_mean(frames, mask))


def increment_weights(basis: IncrementBasis, text: Tensor, mean: Tensor) -> Tensor:
    """Compute the weights e of Delta_ij = sum_k e_ijk Z_k.

    e_k = beta_k / (sd2 sd3) for k < K, then 1 / sd3, then 1; beta is the attention, sd2 and sd3
    the standard deviations in LN2 and LN3.

    Args:
        basis: of the videos or of the texts.
        text: (T, D).
        mean: c(vbar_j) (V, D), or one row of zeros without a gap.

    Returns:
        (T, V, K + 2); V is 1 where the increment depends on the text alone.
    """
    centred = centre(text)
    cross = centred @ mean.T  # (T, V)
    squares = mean.square().sum(dim=-1) + centred.square().sum(dim=-1, keepdim=True)  # (T, V)
    gap_spread = deviation((squares - 2.0 * cross) / text.shape[-1])  # (T, V)
    if basis.context_side == "video":
        projected = basis.key_own - torch.einsum("td,vhcd->tvhc", text, basis.keys)
        offset, allowed = basis.key_offset, basis.mask[:, None]  # (V, heads, C), (V, 1, C)
    else:
        projected = torch.einsum("vd,thcd->tvhc", mean, basis.keys) - basis.key_own[:, None]
        # (T, 1, heads, C), (T, 1, 1, C)
        offset, allowed = basis.key_offset[:, None], basis.mask[:, None, None]
    logits = basis.eta * projected / gap_spread[..., None, None] + offset  # (T, V, heads, C)
    attention = masked_softmax(logits, allowed).flatten(-2)  # (T, V, K)
    spread = deviation(quadratic(attention, basis.value_gram, basis.context_side))  # (T, V)
    mixture = attention / spread[..., None]
    mixture = torch.cat([mixture, torch.ones_like(mixture[..., :1])], dim=-1)  # (T, V, K + 1)
    spread = deviation(quadratic(mixture, basis.residual_gram, basis.context_side))  # (T, V)
    mixture = mixture / spread[..., None]
    return torch.cat([mixture, torch.ones_like(mixture[..., :1])], dim=-1)  # (T, V, K + 2)


def exact_increment(basis: IncrementBasis, text: Tensor, mean: Tensor) -> Tensor:
    """Rebuild Delta (T, V, D) from its basis, for diagnostics of a few pairs.

    Args:
        basis: of the videos or of the texts.
        text: (T, D).
        mean: c(vbar_j) (V, D), or one row of zeros without a gap.
    """
    weights = increment_weights(basis, text, mean)
    return torch.einsum(f"tvk,{CONTEXT_LETTERS[basis.context_side]}kd->tvd", weights, basis.vectors)


def centre(vectors: Tensor) -> Tensor:
    """Subtract the mean over D from (..., D)."""
    return vectors - vectors.mean(dim=-1, keepdim=True)


def gram(vectors: Tensor) -> Tensor:
    """Return the products of all rows, (..., K, D) -> (..., K, K)."""
    return vectors @ vectors.transpose(-2, -1)


def quadratic(weights: Tensor, matrices: Tensor, context_side: str) -> Tensor:
    """Return w_ij^T M w_ij for every pair.

    Args:
        weights: (T, V, K).
        matrices: (V, K, K) of the videos or (T, K, K) of the texts.
        context_side: side of the matrices, ``video`` or ``text``.

    Returns:
        (T, V).
    """
    # (T, V, K)
    mixed = torch.einsum(f"tvk,{CONTEXT_LETTERS[context_side]}kp->tvp", weights, matrices)
    return (mixed * weights).sum(dim=-1)


def _folded_keys(layer: CrossAttentionLayer, context: Tensor) -> tuple[Tensor, Tensor]:
    key = layer.key_proj(layer.norm1(context))  # (N, C, D)
    key = key.view(*context.shape[:2], layer.heads, -1)  # (N, C, heads, D / heads)
    key = key.transpose(1, 2) * key.shape[-1] ** -0.5  # (N, heads, C, D / heads)
    # (heads, D / heads, D)
    query_weight = layer.query_proj.weight.view(layer.heads, -1, context.shape[-1])
    keys = torch.einsum("nhce,hed->nhcd", key, query_weight)  # (N, heads, C, D)
    constant = layer.query_proj(layer.norm1.bias).view(layer.heads, -1)  # (heads, D / heads)
    offset = torch.einsum("nhce,he->nhc", key, constant)  # (N, heads, C)
    return centre(keys * layer.norm1.weight), offset


def _folded_values(layer: CrossAttentionLayer, context: Tensor) -> Tensor:
    value = layer.value_proj(layer.norm1(context))  # (N, C, D)
    value = value.view(*context.shape[:2], layer.heads, -1)  # (N, C, heads, D / heads)
    # (D, heads, D / heads)
    out_weight = layer.out_proj.weight.view(context.shape[-1], layer.heads, -1)
    folded = torch.einsum("nche,dhe->nhcd", value, out_weight)  # (N, heads, C, D)
    return folded + layer.out_proj.bias / layer.heads


def _residual(layer: CrossAttentionLayer, values: Tensor, count: int) -> Tensor:
    scaled = values * layer.norm2.weight
    rows = scaled + scaled @ layer.linear1.weight.T  # (N, K, D)
    constant = layer.norm2.bias + layer.linear1(layer.norm2.bias)
    return centre(torch.cat([rows, constant.expand(count, 1, -1)], dim=1))  # (N, K + 1, D)


def deviation(variance: Tensor) -> Tensor:
    """Return the standard deviation in a LayerNorm, sqrt(max(variance, 0) + eps)."""
    return (variance.clamp_min(0.0) + NORM_EPS).sqrt()
