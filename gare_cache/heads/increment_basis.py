"""The increment of every pair as a mixture of vectors that belong to one side alone.

At dropout 0 every step of a gap layer after its attention is linear between LayerNorms, and a
LayerNorm's statistics of a mixture of known vectors are a quadratic form in the mixture weights.
Delta_ij is therefore a mixture of heads * C + 2 vectors that depend on the side of the context
alone: on the video where psi attends to its C frames, on the text where psi attends to its C words.
With dropout this holds up to the layer's last LayerNorm, see ``dropped_outputs``.
Own derivation from GARE, arXiv:2505.12499, for one layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gare_cache.heads.cross_attention import CONTEXT_LETTERS, NORM_EPS, CrossAttentionLayer
from gare_cache.heads.gap import GapModule
from gare_cache.heads.masking import masked_softmax
from gare_cache.heads.scoring import blocks

# Numbers of a block of the pair tensor.
_BLOCK_ELEMENTS = 2**20


@dataclass(frozen=True)
class AttentionBasis:
    """The attention of a gap layer as seen from the N items that supply the context.

    K = heads * C, and c(.) subtracts the mean over D.

    Attributes:
        context_side: ``"video"`` or ``"text"``: what the N items are.
        eta: sign of the gap.
        keys: g1 * (Wq^T k), centred and over sqrt(D / heads), (N, heads, C, D).
        key_own: keys . x, (N, heads, C); x is c(vbar_j) of a video, t_i of a text.
        key_offset: k . (Wq h1 + bq) over sqrt(D / heads), (N, heads, C).
        mask: what is attended to, (N, C) bool.
        values: O, Wo and bo folded in, centred, (N, K, D).
        value_gram: Gram of the values over D, (N, K, K).
    """

    context_side: str
    eta: int
    keys: Tensor
    key_own: Tensor
    key_offset: Tensor
    mask: Tensor
    values: Tensor
    value_gram: Tensor


@dataclass(frozen=True)
class IncrementBasis:
    """The increment as seen from the N items that supply the context.

    Attributes:
        attention: what leads to LN2.
        residual_gram: Gram of Y and the constant over D, (N, K + 1, K + 1).
        vectors: Z, Delta_ij = sum_k e_ijk Z_k, (N, K + 2, D).
        vectors_gram: Z Z^T, (N, K + 2, K + 2).
        products: Z times what the item alone brings to the score, (N, K + 2, P): the P pooled
            slots of a video, or t_i of a text, P = 1.
    """

    attention: AttentionBasis
    residual_gram: Tensor
    vectors: Tensor
    vectors_gram: Tensor
    products: Tensor


def attention_basis(
    layer: CrossAttentionLayer,
    context: Tensor,
    mask: Tensor,
    *,
    context_side: str,
    eta: int,
    gap_part: Tensor,
) -> AttentionBasis:
    """Prepare a layer's attention on the side that supplies the context.

    Args:
        layer: whose query is eta (vbar_j - t_i).
        context: (N, C, D) frames of N videos or words of N texts.
        mask: (N, C) bool, what is attended to.
        context_side: ``"video"`` or ``"text"``: what the N items are.
        eta: sign of the gap; -1 with vbar = 0 is the query t_i.
        gap_part: the items' part of the gap: c(vbar_j), or t_i, (N, D); one row where all share it.
    """
    normed = layer.norm1(context)
    keys, key_offset = _folded_keys(layer, normed)
    values = centre(_folded_values(layer, normed)).flatten(1, 2)  # (N, K, D)
    return AttentionBasis(
        context_side=context_side,
        eta=eta,
        keys=keys,
        key_own=torch.einsum("nd,nhcd->nhc", gap_part.expand(len(context), -1), keys),
        key_offset=key_offset,
        mask=mask,
        values=values,
        value_gram=gram(values) / values.shape[-1],
    )


def gap_attention(
    gap: GapModule, context: Tensor, mask: Tensor, *, gap_part: Tensor
) -> AttentionBasis:
    """Prepare the attention of a gap module, see ``attention_basis``.

    Raises:
        ConfigError: the module has more than one layer.
    """
    return attention_basis(
        gap.only_layer(),
        context,
        mask,
        context_side=gap.context_side,
        eta=-1 if gap.query == "text" else gap.eta,
        gap_part=gap_part,
    )


def increment_basis(
    gap: GapModule, context: Tensor, mask: Tensor, *, gap_part: Tensor, scored: Tensor
) -> IncrementBasis:
    """Prepare the side that supplies the context, at dropout 0.

    Args:
        gap: a module of one layer.
        context: (N, C, D) frames of N videos or words of N texts.
        mask: (N, C) bool, what is attended to.
        gap_part: as of ``attention_basis``.
        scored: the items' part of the score: pooled slots (N, P, D), or t_i (N, 1, D).

    Raises:
        ConfigError: the module has more than one layer.
    """
    layer = gap.only_layer()
    attention = gap_attention(gap, context, mask, gap_part=gap_part)
    rows, residual_gram = _before_last_norm(layer, attention)
    vectors = torch.cat(
        [
            rows @ gap.mean_proj.weight.T,
            gap.mean_proj(layer.norm3.bias).expand(len(context), 1, -1),
        ],
        dim=1,
    )  # (N, K + 2, D)
    return IncrementBasis(
        attention=attention,
        residual_gram=residual_gram,
        vectors=vectors,
        vectors_gram=gram(vectors),
        products=vectors @ scored.transpose(1, 2),
    )


def pooling_attention(layer: CrossAttentionLayer, frames: Tensor, mask: Tensor) -> AttentionBasis:
    """Prepare the attention of a pooling by a layer, whose query is the text."""
    none = _no_mean(frames)
    return attention_basis(layer, frames, mask, context_side="video", eta=-1, gap_part=none)


def pooling_basis(layer: CrossAttentionLayer, frames: Tensor, mask: Tensor) -> IncrementBasis:
    """Prepare videos for the pooling by a layer at dropout 0, as ``increment_basis`` does for psi.

    Its result p_ij is a mixture of K + 2 vectors of the video with ``increment_weights``, whose gap
    is the text's alone.

    Args:
        layer: the pooling's.
        frames: (V, F, D).
        mask: (V, F) bool, what is attended to.
    """
    attention = pooling_attention(layer, frames, mask)
    rows, residual_gram = _before_last_norm(layer, attention)
    vectors = torch.cat([rows, layer.norm3.bias.expand(len(frames), 1, -1)], dim=1)
    return IncrementBasis(
        attention=attention,
        residual_gram=residual_gram,
        vectors=vectors,
        vectors_gram=gram(vectors),
        products=vectors[..., :0],
    )


def centred_mean(gap: GapModule, frames: Tensor, mask: Tensor) -> Tensor:
    """Return c(vbar_j), (V, D); without a gap vbar = 0, one row for all videos.

    The query t_i is then the gap with vbar = 0 and eta = -1.
    """
    if gap.query == "text":
        return _no_mean(frames)
    return centre(gap.video_mean(frames, mask))


def attention_weights(basis: AttentionBasis, text: Tensor, mean: Tensor) -> Tensor:
    """Compute the weights of LN2's result, beta_k / sd2 for k < K, then 1.

    beta is the attention and sd2 the standard deviation in LN2.

    Args:
        basis: of the videos or of the texts.
        text: (T, D).
        mean: c(vbar_j) (V, D), or one row of zeros without a gap.

    Returns:
        (T, V, K + 1); V is 1 where the increment depends on the text alone.
    """
    centred = centre(text)
    cross = centred @ mean.T  # (T, V)
    squares = mean.square().sum(dim=-1) + centred.square().sum(dim=-1, keepdim=True)  # (T, V)
    gap_spread = deviation((squares - 2.0 * cross) / text.shape[-1])  # (T, V)
    # The keys come before the items of the other side, along which a softmax is fast.
    if basis.context_side == "video":
        projected = basis.key_own[..., None] - torch.einsum("td,vhcd->vhct", text, basis.keys)
        gap_spread = gap_spread.T  # (V, T)
    else:
        projected = torch.einsum("vd,thcd->thcv", mean, basis.keys) - basis.key_own[..., None]
    logits = basis.eta * projected / gap_spread[:, None, None] + basis.key_offset[..., None]
    attention = masked_softmax(logits, basis.mask[:, None, :, None], dim=2)  # (N, heads, C, M)
    attention = attention.flatten(1, 2)  # (N, K, M)
    order = (2, 0, 1) if basis.context_side == "video" else (0, 2, 1)
    attention = attention.permute(order)  # (T, V, K)
    return _normed(attention, basis.value_gram, basis.context_side)


def increment_weights(basis: IncrementBasis, text: Tensor, mean: Tensor) -> Tensor:
    """Compute the weights e of Delta_ij = sum_k e_ijk Z_k.

    e_k = beta_k / (sd2 sd3) for k < K, then 1 / sd3, then 1; sd3 is the standard deviation in LN3.

    Args:
        basis: of the videos or of the texts.
        text: (T, D).
        mean: c(vbar_j) (V, D), or one row of zeros without a gap.

    Returns:
        (T, V, K + 2); V is 1 where the increment depends on the text alone.
    """
    mixture = attention_weights(basis.attention, text, mean)
    return _normed(mixture, basis.residual_gram, basis.attention.context_side)


def dropped_outputs(
    layer: CrossAttentionLayer, basis: AttentionBasis, text: Tensor, mean: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Compute a layer's y with the dropout of training, in blocks of the side of the context.

    Up to the dropout both terms of x + Dropout(W1 x + b1) are mixtures of K + 1 vectors, so the
    dropout and LN3 alone work on the pair tensor. Blocks stay in the processor's cache, and below
    the size from which the allocator asks the system for new memory every time.

    Args:
        layer: of psi, or of the pooling.
        basis: of the videos or of the texts.
        text: (T, D).
        mean: c(vbar_j) (V, D), or one row of zeros without a gap.

    Yields:
        Items n, and their y: (n, T, D) of videos or (n, V, D) of texts.
    """
    rows = torch.cat(_after_attention(layer, basis), dim=-1)  # (N, K + 1, 2 D)
    weights = attention_weights(basis, text, mean)  # (T, V, K + 1)
    if basis.context_side == "video":
        weights = weights.transpose(0, 1)
    size = max(1, _BLOCK_ELEMENTS // (weights.shape[1] * rows.shape[-1]))
    for part in blocks(len(rows), len(rows) if rows.is_cuda else size):
        attended, linear = (weights[part] @ rows[part]).chunk(2, dim=-1)
        yield part, layer.norm3(attended + layer.dropout(linear))


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


def _normed(mixture: Tensor, matrices: Tensor, context_side: str) -> Tensor:
    """Divide weights (T, V, N) of centred vectors by the mixture's deviation; the bias gets 1."""
    spread = deviation(quadratic(mixture, matrices, context_side))  # (T, V)
    mixture = mixture / spread[..., None]
    return torch.cat([mixture, torch.ones_like(mixture[..., :1])], dim=-1)  # (T, V, N + 1)


def _folded_keys(layer: CrossAttentionLayer, normed: Tensor) -> tuple[Tensor, Tensor]:
    scale = (normed.shape[-1] // layer.heads) ** -0.5
    constant = layer.query_proj(layer.norm1.bias) * scale  # (D,)
    if layer.heads == 1:  # one product instead of two
        query = layer.query_proj.weight * scale
        keys = normed @ (layer.key_proj.weight.T @ query) + layer.key_proj.bias @ query
        offset = normed @ (constant @ layer.key_proj.weight) + layer.key_proj.bias @ constant
        keys = centre(keys * layer.norm1.weight)
        return keys[:, None], offset[:, None]  # (N, 1, C, D), (N, 1, C)
    key = layer.key_proj(normed)  # (N, C, D)
    key = key.view(*normed.shape[:2], layer.heads, -1).transpose(1, 2)  # (N, heads, C, D / heads)
    # (heads, D / heads, D)
    query = layer.query_proj.weight.view(layer.heads, -1, normed.shape[-1]) * scale
    keys = torch.einsum("nhce,hed->nhcd", key, query)  # (N, heads, C, D)
    offset = torch.einsum("nhce,he->nhc", key, constant.view(layer.heads, -1))  # (N, heads, C)
    return centre(keys * layer.norm1.weight), offset


def _folded_values(layer: CrossAttentionLayer, normed: Tensor) -> Tensor:
    out = layer.out_proj.weight
    if layer.heads == 1:
        bias = layer.out_proj(layer.value_proj.bias)
        one: Tensor = normed @ (out @ layer.value_proj.weight).T + bias  # (N, C, D)
        return one[:, None]
    value = layer.value_proj(normed)  # (N, C, D)
    value = value.view(*normed.shape[:2], layer.heads, -1)  # (N, C, heads, D / heads)
    out = out.view(normed.shape[-1], layer.heads, -1)  # (D, heads, D / heads)
    folded = torch.einsum("nche,dhe->nhcd", value, out)  # (N, heads, C, D)
    return folded + layer.out_proj.bias / layer.heads


def _no_mean(frames: Tensor) -> Tensor:
    """Return the mean of a query without a gap: one row of zeros for all videos."""
    return frames.new_zeros(1, frames.shape[-1])


def _before_last_norm(
    layer: CrossAttentionLayer, attention: AttentionBasis
) -> tuple[Tensor, Tensor]:
    """Return Y * g3, (N, K + 1, D), and the Gram of Y over D, of what LN3 norms at dropout 0."""
    attended, linear = _after_attention(layer, attention)
    residual = centre(attended + linear)
    return residual * layer.norm3.weight, gram(residual) / residual.shape[-1]


def _after_attention(layer: CrossAttentionLayer, basis: AttentionBasis) -> tuple[Tensor, Tensor]:
    """Return the vectors, (N, K + 1, D) each, whose mixtures are x = LN2(...) and W1 x + b1."""
    count = len(basis.values)
    bias = layer.norm2.bias.expand(count, 1, -1)
    attended = torch.cat([basis.values * layer.norm2.weight, bias], dim=1)
    linear = attended @ layer.linear1.weight.T
    return attended, torch.cat([linear[:, :-1], linear[:, -1:] + layer.linear1.bias], dim=1)


def deviation(variance: Tensor) -> Tensor:
    """Return the standard deviation in a LayerNorm, sqrt(max(variance, 0) + eps)."""
    return (variance.clamp_min(0.0) + NORM_EPS).sqrt()
