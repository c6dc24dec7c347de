"""Exact scores where everything but the text belongs to the videos: one product with the texts.

All that a score needs of a text are its products with the video's slots, keys and increment
vectors. They are the rows of one matrix per video, so that one product with the texts gives all of
them as (V, rows, T): each later step runs along the texts, which lie next to each other in memory.
The three quadratic forms of the attention a (its values, its residual, its increment) and the
products with the slots are one batched product with a. The algebra is that of
``gare_cache.heads.increment_basis``, written out in a:

    with i2 = 1 / sd2, i3 = 1 / sd3 and the bordered Gram matrices R and G,
    sd3^2 = i2^2 a R a + 2 i2 r . a + r_KK
    |Delta|^2 = (i2 i3)^2 a G a + 2 i2 i3 (i3 g1 + g2) . a + i3^2 g11 + 2 i3 g12 + g22
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gare_cache.heads.increment_basis import AttentionBasis, IncrementBasis, centre, deviation
from gare_cache.heads.masking import masked_softmax


@dataclass(frozen=True)
class VideoRows:
    """What V videos need to score any text; P slots, K = heads * C attended keys.

    Attributes:
        rows: slots, keys and increment vectors, (V, P + K + K + 2, D); the slots alone without a
            gap module.
        forms: value Gram, residual Gram and vectors Gram over the K keys, and the products of the
            increment vectors with the slots, transposed: (V, 3 K + P, K); None without one.
        borders: rows r, g1 and g2 of the bordered Gram matrices, (V, 3, K); None without one.
    """

    rows: Tensor
    forms: Tensor | None
    borders: Tensor | None


@dataclass(frozen=True)
class PairTerms:
    """The increment's part of the scores of all pairs, each (V, T).

    Attributes:
        square: |Delta|^2.
        with_text: t . Delta.
        with_video: p . Delta.
        of_keys: factor of the attention in the weights of Delta, 1 / (sd2 sd3).
        of_bias: weight of the constant before LN3, 1 / sd3.
    """

    square: Tensor
    with_text: Tensor
    with_video: Tensor
    of_keys: Tensor
    of_bias: Tensor


def video_rows(slots: Tensor, basis: IncrementBasis | None) -> VideoRows:
    """Gather the rows and forms of videos.

    Args:
        slots: what the pooling mixes, (V, P, D).
        basis: of the videos; None without a gap module.
    """
    if basis is None:
        return VideoRows(slots, None, None)
    keys = basis.attention.keys.flatten(1, 2)  # (V, K, D)
    count = keys.shape[1]
    residual, vectors = basis.residual_gram, basis.vectors_gram
    forms = torch.cat(
        [
            basis.attention.value_gram,
            residual[:, :count, :count],
            vectors[:, :count, :count],
            basis.products[:, :count].transpose(1, 2),
        ],
        dim=1,
    )  # (V, 3 K + P, K); the Gram matrices are symmetric
    borders = torch.stack(
        [residual[:, count, :count], vectors[:, count, :count], vectors[:, count + 1, :count]],
        dim=1,
    )
    return VideoRows(torch.cat([slots, keys, basis.vectors], dim=1), forms, borders)


def row_products(rows: Tensor, text: Tensor) -> Tensor:
    """Return the products (V, R, T) of all rows (V, R, D) with all texts (T, D)."""
    return (rows.flatten(0, 1) @ text.T).view(*rows.shape[:2], len(text))


def attention_of(basis: AttentionBasis, of_keys: Tensor, text: Tensor, mean: Tensor) -> Tensor:
    """Return the attention of every pair to the keys.

    Args:
        basis: of the videos.
        of_keys: products of keys and texts, (V, K, T).
        text: (T, D).
        mean: c(vbar_j) (V, D), or one row of zeros without a gap.

    Returns:
        (V, K, T).
    """
    centred = centre(text)
    squares = mean.square().sum(dim=-1)[:, None] + centred.square().sum(dim=-1)  # (V, T)
    spread = deviation((squares - 2.0 * mean @ centred.T) / text.shape[-1])  # (V, T)
    videos, heads, context = basis.key_own.shape
    logits = (basis.key_own.flatten(1)[..., None] - of_keys) * (basis.eta / spread)[:, None]
    logits = logits + basis.key_offset.flatten(1)[..., None]  # (V, K, T)
    weights = masked_softmax(
        logits.view(videos, heads, context, -1), basis.mask[:, None, :, None], dim=2
    )
    return weights.flatten(1, 2)


def pair_terms(
    videos: VideoRows, basis: IncrementBasis, attention: Tensor, of_vectors: Tensor, weights: Tensor
) -> PairTerms:
    """Return the increment's terms of every pair.

    Args:
        videos: the videos.
        basis: of the videos.
        attention: (V, K, T).
        of_vectors: products of the increment vectors and the texts, (V, K + 2, T).
        weights: of the pooling's slots, (V, P, T) or (V, P, 1).
    """
    assert videos.forms is not None
    assert videos.borders is not None
    count = attention.shape[1]
    # One split, whose gradients are gathered once.
    *grams, of_slots = torch.split(
        torch.bmm(videos.forms, attention), [count, count, count, weights.shape[1]], dim=1
    )  # (V, K, T) three times, (V, P, T)
    values, residual, increment = ((gram * attention).sum(dim=1) for gram in grams)  # (V, T)
    of_residual, of_scaled, of_constant = torch.bmm(videos.borders, attention).unbind(dim=1)
    corner = basis.residual_gram[:, count, count, None]  # (V, 1)
    inner = 1.0 / deviation(values)
    outer = 1.0 / deviation(inner * (inner * residual + 2.0 * of_residual) + corner)
    both = inner * outer
    last = basis.vectors_gram[:, count:, count:, None]  # (V, 2, 2, 1)
    square = (
        both * (both * increment + 2.0 * (outer * of_scaled + of_constant))
        + outer * (outer * last[:, 0, 0] + 2.0 * last[:, 0, 1])
        + last[:, 1, 1]
    )
    of_keys, *of_constants = torch.split(of_vectors, [count, 1, 1], dim=1)
    with_text = both * (of_keys * attention).sum(dim=1)
    with_text = with_text + outer * of_constants[0][:, 0] + of_constants[1][:, 0]
    of_slots = (of_slots * weights).sum(dim=1)  # (V, T)
    scaled, constant = (
        (basis.products[:, row, :, None] * weights).sum(dim=1) for row in (count, count + 1)
    )
    with_video = both * of_slots + outer * scaled + constant
    return PairTerms(square, with_text, with_video, of_keys=both, of_bias=outer)
