"""The transformer block of CLIP, with its parameters named as CLIP's."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_STEEPNESS = 1.702


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the activation of CLIP (Radford et al., arXiv:2103.00020, code).

    Computed as silu(1.702 x) / 1.702, which torch has in one pass, as it has its gradient.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply elementwise."""
        return F.silu(_STEEPNESS * inputs).mul_(1.0 / _STEEPNESS)


class SelfAttention(nn.Module):
    """Multi-head self-attention with an additive bias on the scores; parameters as CLIP's."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, inputs: Tensor, bias: Tensor) -> Tensor:
        """Attend.

        Args:
            inputs: (V, F, D).
            bias: added to the scores, broadcast to (V, heads, F queries, F keys).

        Returns:
            (V, F, D).
        """
        projected = F.linear(inputs, self.in_proj_weight, self.in_proj_bias)
        # (V, F, 3, heads, D / heads)
        split = projected.reshape(*inputs.shape[:2], 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (V, heads, F, D / heads)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))  # (V, F, D)
        return out


class LayerScale(nn.Module):
    """Multiply by one learned number a channel (Touvron et al., arXiv:2103.17239)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply to (..., D)."""
        return inputs * self.gamma


class ResidualBlock(nn.Module):
    """A pre-LayerNorm transformer block: x + attn(ln_1 x), then x + mlp(ln_2 x)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        eps: float,
        hidden: int | None = None,
        quick_gelu: bool = True,
        layer_scale: bool = False,
    ) -> None:
        """Build the block.

        Args:
            dim: width D.
            heads: attention heads, a divisor of D.
            eps: of the LayerNorms.
            hidden: width of the MLP's hidden layer; None is 4 D.
            quick_gelu: whether the activation is QuickGELU, else the exact GELU.
            layer_scale: whether both branches are scaled before they are added.
        """
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        self.attn = SelfAttention(dim, heads)
        self.ln_1 = nn.LayerNorm(dim, eps=eps)
        self.ls_1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(dim, hidden),
                gelu=QuickGELU() if quick_gelu else nn.GELU(),
                c_proj=nn.Linear(hidden, dim),
            )
        )
        self.ln_2 = nn.LayerNorm(dim, eps=eps)
        self.ls_2 = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(self, inputs: Tensor, bias: Tensor) -> Tensor:
        """Map (V, F, D) to (V, F, D); ``bias`` as in ``SelfAttention``."""
        attended = inputs + self.ls_1(self.attn(self.ln_1(inputs), bias))
        out: Tensor = attended + self.ls_2(self.mlp(self.ln_2(attended)))
        return out
