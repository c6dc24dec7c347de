"""Word tokens of a split's captions: ragged in memory, padded for a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# (T, W, D) float32 tokens, zero on padding, and (T, W) bool, True where a token is real.
Words = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class WordTokens:
    """Word tokens of T captions, concatenated.

    Attributes:
        tokens: (sum of lengths, D) of any floating dtype.
        lengths: (T,) int64, at least 1 each.
    """

    tokens: Tensor
    lengths: Tensor

    def padded(self, rows: Tensor) -> Words:
        """Return the tokens of selected captions, padded to the longest of them.

        Args:
            rows: (B,) int64, on the device of the tokens.

        Returns:
            (B, W, D) float32, zero on padding, and (B, W) bool.
        """
        lengths = self.lengths[rows]
        steps = torch.arange(int(lengths.max()), device=rows.device)
        mask = steps < lengths[:, None]  # (B, W)
        places = (self._starts()[rows, None] + steps).masked_fill(~mask, 0)  # (B, W)
        return self.tokens[places].float().masked_fill(~mask[..., None], 0.0), mask

    def of(self, rows: Tensor) -> WordTokens:
        """Return the tokens of selected captions, in the given order."""
        lengths = self.lengths[rows]
        ends = lengths.cumsum(0)
        steps = torch.arange(int(ends[-1]), device=rows.device)
        first = (self._starts()[rows] - (ends - lengths)).repeat_interleave(lengths)  # (sum W,)
        return WordTokens(self.tokens[first + steps], lengths)

    def _starts(self) -> Tensor:
        return self.lengths.cumsum(0) - self.lengths
