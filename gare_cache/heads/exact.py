"""Exact scores of pooled videos without the pair tensor of increments.

The score needs only products of the text with the pooled slots and with the vectors of the
increment's basis, and their small Gram matrices; see ``gare_cache.heads.increment_basis``. Memory
T V C instead of T V D where the basis belongs to the videos. Where it belongs to the texts, the
pooled videos (T, V, D) of a block stand in for the products of all words with all frames.

|t + Delta|^2 = |t|^2 + 2 t . Delta + |Delta|^2 loses its digits where t + Delta nearly vanishes;
such pairs are marked, and the caller scores them densely.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gare_cache.heads.gap import GapModule
from gare_cache.heads.increment_basis import (
    IncrementBasis,
    centred_mean,
    gram,
    increment_basis,
    increment_weights,
    pooling_basis,
    quadratic,
)
from gare_cache.heads.pairs import MIN_NORM, PairMixture, Words
from gare_cache.heads.pooling import CrossAttentionPooling, Pooling
from gare_cache.heads.video_rows import (
    VideoRows,
    attention_of,
    pair_terms,
    row_products,
    video_rows,
)

# Below this share of |t|^2 + |Delta|^2, float32 leaves |t + Delta|^2 fewer than five digits.
_CANCELLED = 0.01
# Numbers of a block of pooled videos.
_BLOCK_ELEMENTS = 2**20


@dataclass(frozen=True)
class VideoBasis:
    """The terms of the score that depend on V videos alone, computed once for all texts.

    Attributes:
        slots: what the pooling mixes, (V, P, D).
        slot_mask: (V, P) bool.
        slots_gram: (V, P, P).
        mean: c(vbar_j), (V, D) or one row; None where the head has no gap module.
        increment: where the context of psi belongs to the videos; else None.
        pooling: of a learned pooling, whose slots are the basis's vectors; else None.
        rows: what the products with the texts need, where the context of psi is not the texts'.
        frames: (V, F, D), for pairs that are scored densely.
        mask: (V, F) bool.
    """

    slots: Tensor
    slot_mask: Tensor
    slots_gram: Tensor
    mean: Tensor | None
    increment: IncrementBasis | None
    pooling: IncrementBasis | None
    rows: VideoRows
    frames: Tensor
    mask: Tensor


@dataclass(frozen=True)
class TextBasis:
    """The terms of the score that depend on T texts alone.

    Attributes:
        text: (T, D).
        words: tokens (T, W, D) and their mask (T, W), for pairs that are scored densely; None where
            psi does not read them.
        increment: where the context of psi belongs to the texts; else None.
    """

    text: Tensor
    words: Words | None
    increment: IncrementBasis | None


def video_basis(
    frames: Tensor, mask: Tensor, pooling: Pooling | CrossAttentionPooling, gap: GapModule | None
) -> VideoBasis:
    """Compute the terms of the score that depend on the videos alone.

    Args:
        frames: (V, F, D) after the aggregator.
        mask: (V, F) bool; every video has a real frame.
        pooling: the head's pooling.
        gap: the head's gap module, of one layer.
    """
    learned = None
    if isinstance(pooling, CrossAttentionPooling):
        learned = pooling_basis(pooling.layer, frames, mask)
        slots = learned.vectors
        slot_mask = mask.new_ones(slots.shape[:2])
    else:
        slots, slot_mask = pooling.slots(frames, mask)
    mean = None if gap is None else centred_mean(gap, frames, mask)
    increment = None
    if gap is not None and mean is not None and gap.context_side == "video":
        context = gap.attended_frames(frames, mask)
        increment = increment_basis(gap, *context, gap_part=mean, scored=slots)
    slots_gram = gram(slots) if learned is None else learned.vectors_gram
    rows = video_rows(slots, increment)
    return VideoBasis(slots, slot_mask, slots_gram, mean, increment, learned, rows, frames, mask)


def text_basis(text: Tensor, words: Words | None, gap: GapModule | None) -> TextBasis:
    """Compute the terms of the score that depend on the texts alone.

    Args:
        text: (T, D).
        words: tokens (T, W, D) and their mask (T, W), where they are the context of psi.
        gap: the head's gap module, of one layer.

    Raises:
        ConfigError: the words are the context of psi, and there are none.
    """
    if gap is None or gap.context_side == "video":
        return TextBasis(text, None, None)
    context = gap.attended_words(words)
    return TextBasis(
        text, words, increment_basis(gap, *context, gap_part=text, scored=text[:, None])
    )


def slot_weights(
    videos: VideoBasis, text: Tensor, pooling: Pooling | CrossAttentionPooling, products: Tensor
) -> Tensor:
    """Return the weights (V, P, T) of the slots in the pooled videos.

    Args:
        videos: the videos.
        text: (T, D).
        pooling: the head's pooling.
        products: of the slots with the texts, (V, P, T).
    """
    if isinstance(pooling, CrossAttentionPooling):
        return _learned_weights(videos, text).permute(1, 2, 0)
    return pooling.weights(products, videos.slot_mask[..., None], dim=1).expand(products.shape)


def _learned_weights(videos: VideoBasis, text: Tensor) -> Tensor:
    assert videos.pooling is not None
    return increment_weights(videos.pooling, text, text.new_zeros(1, text.shape[-1]))


@dataclass(frozen=True)
class ExactScores:
    """Scores of all pairs, and what they were made of.

    Attributes:
        similarity: cosines (T, V).
        cancelled: (T, V) bool, True where an item and its increment cancel.
        increment: Delta, where it was asked for and there is a gap module.
    """

    similarity: Tensor
    cancelled: Tensor
    increment: PairMixture | None


@dataclass(frozen=True)
class _Terms:
    """What the score of a pair is made of, each (T, V).

    Attributes:
        numerator: t . p.
        video_square: |p|^2.
        square: |Delta|^2; None without a gap module, as the next two.
        with_text: t . Delta.
        with_video: p . Delta.
        weights: of the increment's vectors, (T, V, K + 2), where they were asked for.
    """

    numerator: Tensor
    video_square: Tensor
    square: Tensor | None = None
    with_text: Tensor | None = None
    with_video: Tensor | None = None
    weights: Tensor | None = None


def exact_scores(
    texts: TextBasis,
    videos: VideoBasis,
    pooling: Pooling | CrossAttentionPooling,
    *,
    side: str,
    with_increment: bool = False,
) -> ExactScores:
    """Score every pair: cos(t_i + Delta_ij, p_ij), cos(t_i, p_ij + Delta_ij) or cos(t_i, p_ij).

    Differentiable. Squared norms are clamped at 1e-16.

    Args:
        texts: the texts.
        videos: the videos.
        pooling: the head's pooling.
        side: what the increment corrects, ``text`` or ``video``.
        with_increment: whether the increment is returned, too.
    """
    basis = texts.increment or videos.increment
    if texts.increment is None:
        terms = _video_terms(texts.text, videos, pooling, with_weights=with_increment)
    else:
        terms = _text_terms(texts, texts.increment, videos, pooling)
    numerator, video_square = terms.numerator, terms.video_square
    text_square = texts.text.square().sum(dim=-1, keepdim=True)  # (T, 1)
    cancelled = torch.zeros_like(numerator, dtype=torch.bool)
    if terms.square is not None and terms.with_text is not None and terms.with_video is not None:
        own = text_square if side == "text" else video_square
        along, across = terms.with_text, terms.with_video
        if side == "video":
            along, across = across, along
        parts = own + terms.square
        corrected = parts + 2.0 * along
        cancelled = corrected < _CANCELLED * parts
        numerator = numerator + across
        if side == "text":
            text_square = corrected
        else:
            video_square = corrected
    increment = None
    if terms.weights is not None and terms.square is not None and basis is not None:
        increment = PairMixture(
            terms.weights,
            basis.vectors,
            basis.vectors_gram,
            terms.square,
            basis.attention.context_side,
        )
    similarity = numerator / (_norm(text_square) * _norm(video_square))
    return ExactScores(similarity, cancelled, increment)


def _video_terms(
    text: Tensor,
    videos: VideoBasis,
    pooling: Pooling | CrossAttentionPooling,
    *,
    with_weights: bool,
) -> _Terms:
    """Return the terms where all but the text belongs to the videos."""
    products = row_products(videos.rows.rows, text)  # (V, R, T)
    count, basis = videos.slots.shape[1], videos.increment
    keys = 0 if basis is None else basis.attention.key_own[0].numel()
    # One split, whose gradients are gathered once.
    of_slots, of_keys, of_vectors = torch.split(
        products, [count, keys, products.shape[1] - count - keys], dim=1
    )
    weights = slot_weights(videos, text, pooling, of_slots)  # (V, P, T)
    numerator = (weights * of_slots).sum(dim=1).T
    video_square = (torch.bmm(videos.slots_gram, weights) * weights).sum(dim=1).T
    if basis is None or videos.mean is None:
        return _Terms(numerator, video_square)
    attention = attention_of(basis.attention, of_keys, text, videos.mean)
    pairs = pair_terms(videos.rows, basis, attention, of_vectors, weights)
    mixture = None
    if with_weights:
        last = torch.stack([pairs.of_bias, torch.ones_like(pairs.of_bias)], dim=1)  # (V, 2, T)
        mixture = torch.cat([attention * pairs.of_keys[:, None], last], dim=1).permute(2, 0, 1)
    return _Terms(
        numerator, video_square, pairs.square.T, pairs.with_text.T, pairs.with_video.T, mixture
    )


def _text_terms(
    texts: TextBasis,
    basis: IncrementBasis,
    videos: VideoBasis,
    pooling: Pooling | CrossAttentionPooling,
) -> _Terms:
    """Return the terms where the increment is a mixture of vectors of the texts."""
    assert videos.mean is not None
    products = row_products(videos.slots, texts.text)  # (V, P, T)
    weights = slot_weights(videos, texts.text, pooling, products)  # (V, P, T)
    numerator = (weights * products).sum(dim=1).T  # (T, V)
    mixture = increment_weights(basis, texts.text, videos.mean)
    mixture = mixture.expand(*numerator.shape, -1)  # (T, V, K + 2)
    along = _along_pooled(weights, videos.slots, basis.vectors)  # (T, K + 2, V)
    return _Terms(
        numerator=numerator,
        video_square=quadratic(weights.permute(2, 0, 1), videos.slots_gram, "video"),
        square=quadratic(mixture, basis.vectors_gram, "text"),
        with_text=(mixture * basis.products[:, None, :, 0]).sum(dim=-1),
        with_video=(mixture * along.transpose(1, 2)).sum(dim=-1),
        weights=mixture,
    )


def _along_pooled(weights: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
    """Return the products (T, K, V) of vectors of the texts with pooled videos.

    The pooled videos (T, V, D) are made in blocks of texts that stay in the processor's cache, and
    below the size from which the allocator asks the system for new memory every time.

    Args:
        weights: of the slots, (V, P, T).
        slots: (V, P, D).
        vectors: (T, K, D).
    """
    size = max(1, _BLOCK_ELEMENTS // slots[:, 0].numel())
    size = len(vectors) if slots.is_cuda else size
    parts = zip(torch.split(weights, size, dim=2), torch.split(vectors, size), strict=True)
    return torch.cat(
        [
            torch.einsum("tkd,tvd->tkv", rows, torch.einsum("vpt,vpd->tvd", of_slots, slots))
            for of_slots, rows in parts
        ]
    )


def _norm(square: Tensor) -> Tensor:
    return square.clamp_min(MIN_NORM**2).sqrt()
