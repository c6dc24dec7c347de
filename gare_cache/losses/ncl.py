"""Normalised contrastive learning: InfoNCE on scores whose hubs are evened out first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gare_cache.losses.logits import pair_logits
from gare_cache.losses.sinkhorn import unchecked_biases


def ncl(
    similarity: Tensor,
    scale: Tensor | float,
    *,
    positives: Tensor | None = None,
    iterations: int,
    detach_biases: bool,
) -> Tensor:
    """Average the cross-entropies of the batch's normalised retrieval probabilities.

    With S = scale * similarity and Sinkhorn's biases a (texts), b (videos) of S,

        L = -1/(2B) sum_i [ log softmax_j(S_ij + b_j)_(j=i) + log softmax_k(S_ki + a_k)_(k=i) ]

    Source: NCL, arXiv:2212.11790. The number of iterations and whether the biases are
    differentiated are not public. At convergence both rules have the gradient (P - I) / B in S,
    P = e^(S + a + b); at 4 iterations they lie up to some 25 % apart.

    Columns are pairs, so every target is 1: a video with m texts in the batch has m columns, which
    share its target m equally, and with ``positives`` each of them keeps its own text alone.

    Args:
        similarity: (B, B) pair scores of any head, the whole global batch.
        scale: 1 / temperature.
        positives: as in ``info_nce``; pairs left out take part in neither softmax nor bias.
        iterations: n of ``sinkhorn_biases``; 0 is the inverted softmax.
        detach_biases: treat a and b as constants.

    Returns:
        Scalar.

    Raises:
        ConfigError: the similarity is not square, or ``positives`` do not fit.
    """
    logits = pair_logits(similarity, scale, positives)
    biased = logits.detach() if detach_biases else logits
    row_bias, column_bias = unchecked_biases(biased, iterations=iterations)
    target = torch.arange(len(logits), device=logits.device)
    to_videos = F.cross_entropy(logits + column_bias, target)
    to_texts = F.cross_entropy((logits + row_bias[:, None]).T, target)
    return 0.5 * (to_videos + to_texts)
