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
    quadratic,
)
from gare_cache.heads.pairs import Words
from gare_cache.heads.pooling import Pooling
from gare_cache.heads.scoring import MIN_NORM
from gare_cache.heads.video_rows import (
    PairTerms,
    VideoRows,
    attention_of,
    pair_terms,
    row_products,
    video_rows,
)

# Below this share of |t|^2 + |Delta|^2, float32 leaves |t + Delta|^2 fewer than five digits.
_CANCELLED = 0.01


@dataclass(frozen=True)
class VideoBasis:
    """The terms of the score that depend on V videos alone, computed once for all texts.

    Attributes:
        slots: what the pooling mixes, (V, P, D).
        slot_mask: (V, P) bool.
        slots_gram: (V, P, P).
        mean: c(vbar_j), (V, D) or one row; None where the head has no gap module.
        increment: where the context of psi belongs to the videos; else None.
        rows: what the products with the texts need, where the context of psi is not the texts'.
        frames: (V, F, D), for pairs that are scored densely.
        mask: (V, F) bool.
    """

    slots: Tensor
    slot_mask: Tensor
    slots_gram: Tensor
    mean: Tensor | None
    increment: IncrementBasis | None
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
    frames: Tensor, mask: Tensor, pooling: Pooling, gap: GapModule | None
) -> VideoBasis:
    """Compute the terms of the score that depend on the videos alone.

    Args:
        frames: (V, F, D) after the aggregator.
        mask: (V, F) bool; every video has a real frame.
        pooling: the head's pooling.
        gap: the head's gap module, of one layer.
    """
    slots, slot_mask = pooling.slots(frames, mask)
    mean = None if gap is None else centred_mean(gap, frames, mask)
    increment = None
    if gap is not None and mean is not None and gap.context_side == "video":
        context = gap.attended_frames(frames, mask)
        increment = increment_basis(gap, *context, gap_part=mean, scored=slots)
    rows = video_rows(slots, increment)
    return VideoBasis(slots, slot_mask, gram(slots), mean, increment, rows, frames, mask)


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


def exact_scores(
    texts: TextBasis, videos: VideoBasis, pooling: Pooling, *, side: str
) -> tuple[Tensor, Tensor]:
    """Score every pair: cos(t_i + Delta_ij, p_ij), cos(t_i, p_ij + Delta_ij) or cos(t_i, p_ij).

    Squared norms are clamped at 0 and norms at 1e-8.

    Args:
        texts: the texts.
        videos: the videos.
        pooling: the head's pooling.
        side: what the increment corrects, ``text`` or ``video``.

    Returns:
        (T, V) cosines, and (T, V) bool, True where an item and its increment cancel.
    """
    if texts.increment is None:
        numerator, terms, video_square = _video_terms(texts.text, videos, pooling)
    else:
        numerator, terms, video_square = _text_terms(texts, texts.increment, videos, pooling)
    text_square = texts.text.square().sum(dim=-1, keepdim=True)  # (T, 1)
    cancelled = torch.zeros_like(numerator, dtype=torch.bool)
    if terms is not None and side == "text":
        numerator = numerator + terms.with_video
        parts = text_square + terms.square
        text_square = parts + 2.0 * terms.with_text
        cancelled = text_square < _CANCELLED * parts
    elif terms is not None:
        numerator = numerator + terms.with_text
        parts = video_square + terms.square
        video_square = parts + 2.0 * terms.with_video
        cancelled = video_square < _CANCELLED * parts
    return numerator / (_norm(text_square) * _norm(video_square)), cancelled


def _video_terms(
    text: Tensor, videos: VideoBasis, pooling: Pooling
) -> tuple[Tensor, PairTerms | None, Tensor]:
    """Return t . p, the increment's terms and |p|^2 of all pairs, each (T, V)."""
    products = row_products(videos.rows.rows, text)  # (V, R, T)
    count = videos.slots.shape[1]
    of_slots = products[:, :count]
    weights = pooling.weights(of_slots, videos.slot_mask[..., None], dim=1)
    weights = weights.expand(of_slots.shape)  # (V, P, T)
    numerator = (weights * of_slots).sum(dim=1).T
    video_square = (torch.bmm(videos.slots_gram, weights) * weights).sum(dim=1).T
    basis = videos.increment
    if basis is None or videos.mean is None:
        return numerator, None, video_square
    keys = basis.key_own[0].numel()
    attention = attention_of(basis, products[:, count : count + keys], text, videos.mean)
    terms = pair_terms(videos.rows, basis, attention, products[:, count + keys :], weights)
    return numerator, terms.transposed(), video_square


def _text_terms(
    texts: TextBasis, basis: IncrementBasis, videos: VideoBasis, pooling: Pooling
) -> tuple[Tensor, PairTerms, Tensor]:
    """Return the same where the increment is a mixture of vectors of the texts."""
    assert videos.mean is not None
    products = torch.einsum("td,vpd->tvp", texts.text, videos.slots)  # (T, V, P)
    weights = pooling.weights(products, videos.slot_mask)
    mixture = increment_weights(basis, texts.text, videos.mean)
    pooled = torch.einsum("tvp,vpd->tvd", weights, videos.slots)  # (T, V, D)
    along = torch.einsum("tvd,tkd->tvk", pooled, basis.vectors)  # (T, V, K + 2)
    terms = PairTerms(
        square=quadratic(mixture, basis.vectors_gram, basis.context_side),
        with_text=(mixture * basis.products[:, None, :, 0]).sum(dim=-1),
        with_video=(mixture * along).sum(dim=-1),
    )
    video_square = quadratic(weights, videos.slots_gram, "video")
    return (weights * products).sum(dim=-1), terms, video_square


def _norm(square: Tensor) -> Tensor:
    return square.clamp_min(0.0).sqrt().clamp_min(MIN_NORM)
