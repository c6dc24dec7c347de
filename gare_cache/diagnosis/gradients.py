"""Gradients of the contrastive loss by pair, the anchors' tension, and the increment's ideal step.

Anchors are the items of the corrected side: texts on the text side, videos on the video side.
Numbers are float64, because a gradient weighted by a probability of 1e-40 still has a direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gare_cache.data.split import FeatureSplit
from gare_cache.evaluation.increment import require_delta
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.heads.scoring import blocks

_MIN_NORM = 1e-8
_ANCHORS_AT_ONCE = 16


@dataclass(frozen=True)
class PairGradients:
    """Gradients of a batch of B matched pairs by their anchors; rows are anchors.

    Attributes:
        positive: (B, D) gradient from each anchor's matched pair.
        negative: (B, D) sum of the gradients from all its unmatched pairs.
        tension: (B,) norm of the sum of all gradients / sum of their norms: 1 if all pairs pull in
            the same direction, 0 if they cancel; NaN if all gradients are zero.
        lengths: (B, B) norms of the pairs' gradients.
        along: (B, B) component of Delta_ij along g_ij, <Delta, g> / |g|.
    """

    positive: Tensor
    negative: Tensor
    tension: Tensor
    lengths: Tensor
    along: Tensor


@dataclass(frozen=True)
class BatchGradients:
    """Gradients of a batch with and without its increments.

    Attributes:
        corrected: at a_ij = item + Delta_ij.
        plain: at a_ij = item, without the increment.
        increments: (B, B) norms of Delta_ij.
        probability: (B, B) softmax over each anchor's pairs, with the increments.
    """

    corrected: PairGradients
    plain: PairGradients
    increments: Tensor
    probability: Tensor


def cosine_gradient(anchors: Tensor, partners: Tensor) -> Tensor:
    """Return the gradient of cos(a, v) by a: (v/|v| - cos(a, v) a/|a|) / |a|.

    Args:
        anchors: (..., D).
        partners: broadcastable to it.

    Returns:
        (..., D), orthogonal to the anchors.
    """
    length = torch.linalg.vector_norm(anchors, dim=-1, keepdim=True).clamp_min(_MIN_NORM)
    partner_length = torch.linalg.vector_norm(partners, dim=-1, keepdim=True)  # (..., 1)
    direction, target = anchors / length, partners / partner_length.clamp_min(_MIN_NORM)
    cosine = (direction * target).sum(dim=-1, keepdim=True)  # (..., 1)
    gradient: Tensor = (target - cosine * direction) / length
    return gradient


def pair_gradients(anchors: Tensor, partners: Tensor, true: Tensor, scale: float) -> Tensor:
    """Return the gradient of each anchor's cross entropy by the anchor of each pair.

    g_ij = (P_ij - y_ij) s d cos(a_ij, v_ij) / d a_ij, P the softmax of s cos over the anchor's
    pairs (GARE, arXiv:2505.12499, where a_ij = t_i + Delta_ij).

    Args:
        anchors: (A, P, D).
        partners: (A, P, D), or broadcastable to it.
        true: (A,) column of each anchor's matched pair.
        scale: 1 / temperature.

    Returns:
        (A, P, D).
    """
    gradient = cosine_gradient(anchors, partners)  # (A, P, D)
    weights = pair_probabilities(anchors, partners, scale)  # (A, P)
    rows = torch.arange(len(true), device=true.device)
    # 1 - P of the true pair as the sum of the others, which avoids cancellation.
    weights[rows, true] = 0.0
    weights[rows, true] = -weights.sum(dim=1)  # (A,)
    return scale * weights[..., None] * gradient


def pair_probabilities(anchors: Tensor, partners: Tensor, scale: float) -> Tensor:
    """Return the softmax (A, P) of the scaled cosines over each anchor's pairs."""
    cosine = torch.nn.functional.cosine_similarity(
        anchors, partners, dim=-1, eps=_MIN_NORM
    )  # (A, P)
    return (scale * cosine).softmax(dim=1)


def uncoupled_steps(gradient_lengths: Tensor, radius: float) -> Tensor:
    """Return eta = radius / |g|: the step -eta g from no increment to the radius."""
    return radius / gradient_lengths


def coupled_steps(
    along: Tensor, increments: Tensor, gradient_lengths: Tensor, radius: float
) -> tuple[Tensor, Tensor]:
    """Return the largest a with |D - a g| <= radius, from the increment D.

    a = (<D,g> + sqrt(<D,g>^2 + |g|^2 (radius^2 - |D|^2))) / |g|^2. If the root is not real, no
    step stays inside, and D is first scaled back to the radius.

    Args:
        along: <D, g> / |g|.
        increments: |D|.
        gradient_lengths: |g|, above 0.
        radius: epsilon of the trust region.

    Returns:
        The steps, and a mask of the pairs whose D was scaled back.
    """
    under_root = along**2 + radius**2 - increments**2
    scaled_back = under_root < 0
    along = torch.where(scaled_back, along * radius / increments.clamp_min(_MIN_NORM), along)
    under_root = torch.where(scaled_back, along**2, under_root)
    return (along + under_root.sqrt()) / gradient_lengths, scaled_back


@torch.no_grad()
def batch_gradients(head: RetrievalHead, batch: FeatureSplit, scale: float) -> BatchGradients:
    """Compute the gradients of a batch, a block of anchors at a time.

    Args:
        head: with an increment, in evaluation mode.
        batch: B texts, text i belongs to video i.
        scale: 1 / temperature.
    """
    parts: dict[str, list[PairGradients]] = {"corrected": [], "plain": []}
    increments, probability = [], []
    for items, partners, delta, true in anchor_blocks(head, batch):
        anchors = {"corrected": items + delta, "plain": items.expand_as(delta)}
        for name, blocks_of_part in parts.items():
            gradients = pair_gradients(anchors[name], partners, true, scale)
            blocks_of_part.append(_summed_up(gradients, delta, true))
        increments.append(torch.linalg.vector_norm(delta, dim=-1))  # (A, B)
        probability.append(pair_probabilities(anchors["corrected"], partners, scale))
    return BatchGradients(
        **{name: _joined(blocks_of_part) for name, blocks_of_part in parts.items()},
        increments=torch.cat(increments),  # (B, B)
        probability=torch.cat(probability),  # (B, B)
    )


def anchor_blocks(
    head: RetrievalHead, batch: FeatureSplit
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield the vectors of a block of anchors with all partners, float64 on the CPU.

    Yields:
        The corrected items (A, B, D) or (A, 1, D), their partners, the increments (A, B, D), and
        the column of each anchor's matched pair (A,).
    """
    rows = torch.arange(len(batch.text), device=batch.text.device)
    for part in blocks(len(rows), _ANCHORS_AT_ONCE):
        if head.side == "text":
            words = batch.words_of(rows[part])
            vectors = head.vectors(batch.text[part], batch.frames, batch.mask, words)
            items, partners = vectors.text[:, None], vectors.video  # (A, 1, D), (A or 1, B, D)
            delta = require_delta(vectors)  # (A, B, D)
        else:
            words = batch.words_of(rows)
            vectors = head.vectors(batch.text, batch.frames[part], batch.mask[part], words)
            items, partners = vectors.video.transpose(0, 1), vectors.text[None]  # (1, B, D)
            delta = require_delta(vectors).transpose(0, 1)  # (A, B, D)
        yield _exact(items), _exact(partners), _exact(delta), rows[part].cpu()


def _exact(vectors: Tensor) -> Tensor:
    return vectors.cpu().double()


def _summed_up(gradients: Tensor, delta: Tensor, true: Tensor) -> PairGradients:
    rows = torch.arange(len(true))
    lengths = torch.linalg.vector_norm(gradients, dim=-1)  # (A, B)
    total, positive = gradients.sum(dim=1), gradients[rows, true]  # (A, D) each
    return PairGradients(
        positive=positive,
        negative=total - positive,
        tension=torch.linalg.vector_norm(total, dim=-1) / lengths.sum(dim=1),
        lengths=lengths,
        along=(delta * gradients).sum(dim=-1) / lengths,  # (A, B)
    )


def _joined(parts: list[PairGradients]) -> PairGradients:
    names = vars(parts[0])
    return PairGradients(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names})
