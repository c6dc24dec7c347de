"""Cross-attention with one query a text-video pair; the video or the text supplies the keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gare_cache.errors import ConfigError
from gare_cache.heads.dropout import PairDropout
from gare_cache.heads.masking import masked_softmax
from gare_cache.heads.settings import LinearInit

NORM_EPS = 1e-5
# The index that the context shares with the pairs (T, V): of the texts, or of the videos.
CONTEXT_LETTERS = {"text": "t", "video": "v"}


class CrossAttentionLayer(nn.Module):
    """Cross-attention without a residual from the query, then a residual linear layer.

    With LN1 shared by the query and the context c_k,

        q = Wq LN1(query) + bq;  k_k = Wk LN1(c_k) + bk;  u_k = Wv LN1(c_k) + bv
        beta_k = softmax_k( q . k_k / sqrt(D / heads) )
        x = LN2( Wo sum_k beta_k u_k + bo );  y = LN3( x + Dropout(W1 x + b1) )

    Source: the reference code of GARE, arXiv:2505.12499, whose layer is that of X-Pool,
    arXiv:2203.15086.
    """

    def __init__(self, dim: int, *, heads: int, dropout: float, what: str) -> None:
        """Build the layer; its weights are those of torch until ``initialise`` is called.

        Args:
            dim: width D.
            heads: attention heads, a divisor of D.
            dropout: probability in [0, 1), active in training mode only.
            what: whose settings these are, for the message: ``"head.gap"``.

        Raises:
            ConfigError: the heads do not divide the width.
        """
        super().__init__()
        if dim % heads:
            raise ConfigError(f"{what}.heads is {heads}; it must divide dim = {dim}")
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.query_proj = nn.Linear(dim, dim)
        self.key_proj = nn.Linear(dim, dim)
        self.value_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.linear1 = nn.Linear(dim, dim)
        self.dropout = PairDropout(dropout)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)

    @property
    def drops(self) -> bool:
        """Whether the dropout is active."""
        return self.dropout.training and self.dropout.p > 0

    def forward(self, query: Tensor, context: Tensor, mask: Tensor, *, context_side: str) -> Tensor:
        """Attend.

        Args:
            query: (T, V, D); T or V may be 1 where all share it.
            context: the keys and values: (V, C, D) of the videos or (T, C, D) of the texts.
            mask: (V, C) or (T, C) bool, what of the context to attend to.
            context_side: ``"video"`` or ``"text"``: the side that supplies keys and values.

        Returns:
            (T, V, D). Finite also where the mask is all False.
        """
        normed = self.norm1(context)
        queries = self.query_proj(self.norm1(query))  # (T, V, D)
        queries = queries.view(*query.shape[:2], self.heads, -1)  # (T, V, heads, D / heads)
        # (V, 1, C), or (T, 1, 1, C)
        allowed = mask[:, None] if context_side == "video" else mask[:, None, None]
        few = context_side == "video" and len(query) < context.shape[1]
        if few and not torch.is_grad_enabled():
            mixed = self._mix_few(queries, normed, allowed)
        else:
            mixed = self._mix(queries, normed, allowed, CONTEXT_LETTERS[context_side])
        attended = self.norm2(self.out_proj(mixed.flatten(-2)))
        out: Tensor = self.norm3(attended + self.dropout(self.linear1(attended)))
        return out

    def _mix(self, queries: Tensor, normed: Tensor, allowed: Tensor, letter: str) -> Tensor:
        """Return sum_k beta_k u_k of each head, (T, V, heads, D / heads)."""
        split = (*normed.shape[:2], self.heads, -1)
        key = self.key_proj(normed).view(split)  # (V or T, C, heads, D / heads)
        value = self.value_proj(normed).view(split)  # (V or T, C, heads, D / heads)
        scores = torch.einsum(f"tvhd,{letter}chd->tvhc", queries, key)  # (T, V, heads, C)
        weights = masked_softmax(scores * queries.shape[-1] ** -0.5, allowed)
        return torch.einsum(f"tvhc,{letter}chd->tvhd", weights, value)

    def _mix_few(self, queries: Tensor, normed: Tensor, allowed: Tensor) -> Tensor:
        """Return the same, with the projections on the side of the texts: T V D^2, not V C D^2.

        q . (Wk c_k + bk) = (Wk^T q) . c_k + q . bk, whose last term is the same for all k and
        leaves the softmax as it is; sum_k beta_k (Wv c_k + bv) = Wv sum_k beta_k c_k + bv sum_k
        beta_k.
        """
        split = (self.heads, -1, normed.shape[-1])  # (heads, D / heads, D)
        folded = torch.einsum("tvhd,hde->tvhe", queries, self.key_proj.weight.view(split))
        # (T, V, heads, C)
        scores = torch.einsum("tvhe,vce->tvhc", folded.expand(-1, len(normed), -1, -1), normed)
        weights = masked_softmax(scores * queries.shape[-1] ** -0.5, allowed)
        mixed = torch.einsum("tvhc,vce->tvhe", weights, normed)  # (T, V, heads, D)
        bias = self.value_proj.bias.view(self.heads, -1) * weights.sum(dim=-1, keepdim=True)
        return torch.einsum("tvhe,hde->tvhd", mixed, self.value_proj.weight.view(split)) + bias


def initialise(module: nn.Module, init: LinearInit) -> None:
    """Set every Linear: ``normal``: N(0, 0.02), ``identity``: the identity; biases 0.

    Args:
        module: changed in place.
        init: ``normal`` or ``identity``.
    """
    for linear in module.modules():
        if isinstance(linear, nn.Linear):
            if init == "identity":
                nn.init.eye_(linear.weight)
            else:
                nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
