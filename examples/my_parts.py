"""An aggregator, a loss and a normaliser of one's own; docs/extending.md explains them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MyAggregator(nn.Module):
    """Add to each frame what its neighbours say: a convolution over time."""

    def __init__(self, dim: int, max_frames: int, width: int = 3) -> None:
        """Take the width D and the most frames F from gare-cache, the rest from options."""
        super().__init__()
        self.convolution = nn.Conv1d(dim, dim, width, padding="same", groups=dim)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Map frames (V, F, D), real where mask (V, F), to (V, F, D)."""
        real = frames * mask[..., None]
        return frames + self.convolution(real.transpose(1, 2)).transpose(1, 2)


def my_loss(
    similarity: Tensor, scale: Tensor, *, positives: Tensor | None = None, margin: float = 0.1
) -> Tensor:
    """Push each pair's cosine a margin above those of the pairs beside it, in both directions.

    Args:
        similarity: (B, B) cosines, rows are texts; the diagonal is positive.
        scale: 1 / temperature, the head's.
        positives: (B, B) bool, True where text i describes video j; these are no negatives.
        margin: from the options.
    """
    own = similarity.diagonal()
    known = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    if positives is not None:
        known = known | positives
    rows = F.softplus(scale * (similarity - own[:, None] + margin)).masked_fill(known, 0.0)
    columns = F.softplus(scale * (similarity - own[None, :] + margin)).masked_fill(known, 0.0)
    return 0.5 * (rows + columns).mean()


def my_normaliser(scores: Any, *, weight: float = 0.5) -> Any:
    """Subtract from each item what it scores on average against the bank of training queries.

    Args:
        scores: ``logits`` (Q, G), queries are rows; ``queries`` (M, G), the bank's.
        weight: from the settings.

    Returns:
        (Q, G) corrected scores.
    """
    return scores.logits - weight * np.mean(scores.queries, axis=0)
