"""A head of one's own: texts against the frames that fit them best.

Copy it beside params.yaml and set

    head:
      interaction: {name: my_head:MyHead, options: {temperature: 0.1}}
      pooling: null
      gap: null

with the weights of ib, eps and dir at 0, since there is no increment. Check it with

    gare-cache check-head my_head:MyHead --option temperature=0.1
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MyHead(nn.Module):
    """Score a pair by a soft maximum of the cosines between the text and the frames.

    s_ij = sum_k w_ijk c_ijk, w_ij = softmax_k(c_ijk / temperature) over real frames, c_ijk the
    cosine of A t_i and f_jk.
    """

    def __init__(self, dim: int, max_frames: int, temperature: float = 0.1) -> None:
        """Take the width D and the most frames F from gare-cache, the rest from options."""
        super().__init__()
        self.temperature = temperature
        self.map = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.map.weight)

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Score text (T, D) against frames (V, F, D), real where mask (V, F): cosines (T, V)."""
        text = F.normalize(self.map(text), dim=-1)
        cosines = torch.einsum("td,vfd->tvf", text, F.normalize(frames, dim=-1))
        logits = (cosines / self.temperature).masked_fill(~mask, -torch.inf)
        return (logits.softmax(dim=-1) * cosines).sum(dim=-1)
