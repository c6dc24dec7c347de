"""CLIP's text tower as a module of this package, which needs no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gare_cache.encoders.loading import Unfilled
from gare_cache.encoders.residual_block import ResidualBlock


@dataclass(frozen=True)
class TextShape:
    """What decides how a text tower computes, beside its weights.

    Attributes:
        vocabulary: number of token ids.
        positions: number of positions.
        width: of the hidden states.
        layers: number of blocks.
        heads: attention heads.
        hidden: width of the MLPs' hidden layers.
        eps: of the LayerNorms.
        quick_gelu: whether the activation is QuickGELU, else the exact GELU.
        layer_scale: whether the blocks' branches are scaled.
        projection: ``none``, ``matrix`` (width, D), ``linear`` or ``linear with bias``.
        dim: width D of the features.
    """

    vocabulary: int
    positions: int
    width: int
    layers: int
    heads: int
    hidden: int
    eps: float
    quick_gelu: bool
    layer_scale: bool
    projection: str
    dim: int


class _Blocks(nn.Module):
    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResidualBlock(
                shape.width,
                shape.heads,
                eps=shape.eps,
                hidden=shape.hidden,
                quick_gelu=shape.quick_gelu,
                layer_scale=shape.layer_scale,
            )
            for _ in range(shape.layers)
        )

    def get_cast_dtype(self) -> torch.dtype:
        """Return the dtype in which the blocks compute."""
        return torch.float32

    def forward(self, inputs: Tensor, attn_mask: Tensor) -> Tensor:
        """Map (B, W, width) under an additive mask (W, W)."""
        for block in self.resblocks:
            inputs = block(inputs, attn_mask)
        return inputs


class ClipText(nn.Module):
    """A causal text tower in fp32, as ``text_tower.encode_cut`` takes it; names are open_clip's."""

    def __init__(self, shape: TextShape) -> None:
        """Build the tower without weights, see ``load_tower``."""
        super().__init__()
        self.token_embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.positional_embedding = nn.Parameter(torch.empty(shape.positions, shape.width))
        self.transformer = _Blocks(shape)
        self.ln_final = nn.LayerNorm(shape.width, eps=shape.eps)
        self.text_projection: nn.Parameter | nn.Linear | None = None
        if shape.projection == "matrix":
            self.text_projection = nn.Parameter(torch.empty(shape.width, shape.dim))
        elif shape.projection != "none":
            biased = shape.projection == "linear with bias"
            self.text_projection = nn.Linear(shape.width, shape.dim, bias=biased)
        mask = torch.full((shape.positions, shape.positions), float("-inf")).triu(1)
        self.register_buffer("attn_mask", mask, persistent=False)


def load_tower(shape: TextShape, tensors: Mapping[str, Tensor]) -> ClipText:
    """Return a tower that computes with these very tensors, which may be memory-mapped.

    Raises:
        RuntimeError: they are not those of the shape.
    """
    with Unfilled():
        tower = ClipText(shape)
    tower.load_state_dict(dict(tensors), assign=True)
    return tower.eval().requires_grad_(False)


def split_tower(tower: Any) -> tuple[TextShape, dict[str, Tensor]] | None:
    """Return shape and weights of an open_clip text tower; None if it is of another kind.

    Args:
        tower: what ``text_tower`` returns. That a tower of this shape computes what it does is for
            the caller to try.
    """
    try:
        first = tower.transformer.resblocks[0]
        projection, dim = _projection(tower)
        shape = TextShape(
            vocabulary=tower.token_embedding.num_embeddings,
            positions=tower.positional_embedding.shape[0],
            width=tower.positional_embedding.shape[1],
            layers=len(tower.transformer.resblocks),
            heads=first.attn.num_heads,
            hidden=first.mlp.c_fc.out_features,
            eps=tower.ln_final.eps,
            quick_gelu=type(first.mlp.gelu).__name__ == "QuickGELU",
            layer_scale=hasattr(first.ls_1, "gamma"),
            projection=projection,
            dim=dim,
        )
    except (AttributeError, IndexError, TypeError):  # each family has other parts
        return None
    with Unfilled():
        names = ClipText(shape).state_dict()
    found = {name: value for name, value in tower.state_dict().items() if name in names}
    fits = all(name in found and found[name].shape == names[name].shape for name in names)
    return (shape, found) if fits else None


def _projection(tower: Any) -> tuple[str, int]:
    """Return the kind of a tower's projection, and the width of what it returns."""
    projection = tower.text_projection
    if projection is None:
        return "none", int(tower.positional_embedding.shape[1])
    if isinstance(projection, nn.Linear):
        return "linear" if projection.bias is None else "linear with bias", projection.out_features
    return "matrix", int(projection.shape[1])
