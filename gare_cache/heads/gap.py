"""GARE's gap module psi: from the gap between a text and a video to the increment Delta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.heads.pooling import masked_softmax, mean_pool
from gare_cache.heads.settings import require_count, with_defaults

NORM_EPS = 1e-5
INITS = ("normal", "identity")
GAP_DEFAULTS: dict[str, Any] = {"heads": 1, "dropout": 0.3, "init": "normal"}


class GapModule(nn.Module):
    """Cross-attention from the gap to the frames, without a residual from the query.

    With LN1 shared by the query and the frames,

        q = Wq LN1(gap_ij) + bq;  k_k = Wk LN1(f_jk) + bk;  u_k = Wv LN1(f_jk) + bv
        beta_ijk = softmax_k( q . k_k / sqrt(D / heads) )
        x = LN2( Wo sum_k beta_ijk u_k + bo );  y = LN3( x + Dropout(W1 x + b1) )
        Delta_ij = Wm y + bm

    Source: GARE, arXiv:2505.12499, and its reference code. Left out of the reference code: the
    log-variance head and the feed-forward layers, whose output it never uses.
    """

    def __init__(
        self, dim: int, *, heads: int = 1, dropout: float = 0.3, init: str = "normal"
    ) -> None:
        """Build the module.

        Args:
            dim: width D.
            heads: attention heads, a divisor of D.
            dropout: probability in [0, 1), active in training mode only.
            init: ``"normal"``: every Linear N(0, 0.02), bias 0, as the published numbers were
                trained; ``"identity"``: every Linear the identity, bias 0.

        Raises:
            ConfigError: a value is out of range or unknown.
        """
        super().__init__()
        require_count("gap.heads", heads)
        if dim % heads:
            raise ConfigError(f"gap.heads is {heads}; it must divide dim = {dim}")
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(f"gap.dropout is {dropout!r}; it must be in [0, 1)")
        if init not in INITS:
            raise ConfigError(unknown_name("gap.init", str(init), INITS))
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.query_proj = nn.Linear(dim, dim)
        self.key_proj = nn.Linear(dim, dim)
        self.value_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.linear1 = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mean_proj = nn.Linear(dim, dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _initialise(module, init)

    def forward(self, gap: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Compute the increment of every pair.

        Args:
            gap: (T, V, D), vbar_j - t_i.
            frames: (V, F, D), the keys and values.
            mask: (V, F) bool, the frames to attend to; all True reproduces the reference code's
                padding rule.

        Returns:
            Delta, (T, V, D). Finite also for a video whose mask is all False.
        """
        normed = self.norm1(frames)
        split = (*frames.shape[:2], self.heads, -1)
        query = self.query_proj(self.norm1(gap)).view(*gap.shape[:2], self.heads, -1)
        key = self.key_proj(normed).view(split)  # (V, F, heads, D / heads)
        value = self.value_proj(normed).view(split)
        scores = torch.einsum("tvhd,vfhd->tvhf", query, key) * query.shape[-1] ** -0.5
        weights = masked_softmax(scores, mask[:, None, :])
        mixed = torch.einsum("tvhf,vfhd->tvhd", weights, value).flatten(-2)  # (T, V, D)
        attended = self.norm2(self.out_proj(mixed))
        hidden = self.norm3(attended + self.dropout(self.linear1(attended)))
        delta: Tensor = self.mean_proj(hidden)
        return delta


def gap_context(frames: Tensor, mask: Tensor, reference_padding: bool) -> tuple[Tensor, Tensor]:
    """Return what the gap module needs of the videos.

    Args:
        frames: (V, F, D).
        mask: (V, F) bool, True on real frames.
        reference_padding: count padded frames in the mean and attend to them, as GARE's
            reference code does.

    Returns:
        The mean frame vbar_j (V, D), and the frames to attend to (V, F) bool.
    """
    attended = torch.ones_like(mask) if reference_padding else mask
    return mean_pool(frames, attended), attended


def complete_gap_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check a gap module's settings and fill in the defaults.

    Raises:
        ConfigError: a setting is unknown.
    """
    return with_defaults("gap", settings, GAP_DEFAULTS)


def _initialise(linear: nn.Linear, init: str) -> None:
    if init == "identity":
        nn.init.eye_(linear.weight)
    else:
        nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
