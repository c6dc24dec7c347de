"""Dropout whose mask costs little on a CPU, where pair tensors have millions of numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STEPS = 2**16  # of a 16-bit number, four of which torch draws at once


class PairDropout(nn.Dropout):
    """Set numbers to 0 with probability p and divide the others by 1 - p, in training mode alone.

    On a CPU the mask comes from 16-bit random numbers, so that p is rounded to a multiple of
    2^-16; torch's own draws a float a number in one thread, which takes six times as long.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop numbers of a tensor of any shape."""
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        dropped = min(round(self.p * _STEPS), _STEPS - 1)
        count = input.numel()
        drawn = torch.randint(-(2**63), 2**63 - 1, (-(-count // 4),), dtype=torch.int64)
        kept = drawn.view(torch.int16)[:count].view(input.shape) >= dropped - _STEPS // 2
        return input * kept.to(input.dtype).mul_(_STEPS / (_STEPS - dropped))
