"""LoRA on the blocks of a CLIP, as parametrisations of its weights.

``peft`` is no choice here: it wraps layers, and open_clip's attention reads the weights of its
projections, one of which is no layer (``in_proj_weight``); what it trains on ``out_proj`` changes
no feature until it is merged (docs/finetuning.md has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gare_cache.errors import ConfigError
from gare_cache.finetuning.settings import LoraSettings

# What a target's parameters are called within a block, as open_clip names them.
_NAMES = {
    "attention_in": ("attn.in_proj_weight",),
    "attention_out": ("attn.out_proj.weight",),
    "mlp": ("mlp.c_fc.weight", "mlp.c_proj.weight"),
}


class LowRank(nn.Module):
    """W + (alpha / rank) B A, a parametrisation of a weight W (out, in).

    A (rank, in) starts from U(-1 / sqrt(in), 1 / sqrt(in)), the start of ``nn.Linear``, and
    B (out, rank) from zero, so that the weight starts as it was. Source: arXiv:2106.09685, 4.1.
    """

    def __init__(self, weight: Tensor, *, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        bound = 1 / math.sqrt(columns)
        start = torch.empty(rank, columns, dtype=torch.float32).uniform_(-bound, bound)
        self.down = nn.Parameter(start.to(weight.device))
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        self.factor = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight (out, in) with its difference of low rank."""
        return weight + self.factor * (self.up @ self.down).to(weight.dtype)


def add_lora(blocks: Sequence[nn.Module], settings: LoraSettings) -> None:
    """Give the weights of blocks their low-rank difference; all else stops training.

    Args:
        blocks: transformer blocks as open_clip's, with ``attn`` and ``mlp``.
        settings: rank, alpha, and which projections.

    Raises:
        ConfigError: a block has other parts, or the rank is above the smaller side of a weight.
    """
    for block in blocks:
        block.requires_grad_(False)
        for target in settings.targets:
            for path in _NAMES[target]:
                owner, name = _owner(block, path)
                weight = getattr(owner, name)
                if settings.rank > min(weight.shape):
                    raise ConfigError(
                        f"finetune.lora.rank is {settings.rank}, but {path} is {weight.shape[0]} x "
                        f"{weight.shape[1]}; lower the rank"
                    )
                low_rank = LowRank(weight, rank=settings.rank, alpha=settings.alpha)
                parametrize.register_parametrization(owner, name, low_rank)


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights with the differences added, under the names of before LoRA.

    The model is left as it is: removing parametrisations of a copied module would remove them from
    the class that both share.
    """
    weights = {
        name: value.detach()
        for name, value in model.state_dict().items()
        if ".parametrizations." not in f".{name}"
    }
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for name in module.parametrizations:
                weights[f"{path}.{name}"] = getattr(module, name).detach()
    return weights


def _owner(block: nn.Module, path: str) -> tuple[nn.Module, str]:
    *parents, name = path.split(".")
    owner = block
    for parent in parents:
        owner = getattr(owner, parent, None)  # type: ignore[assignment]
    if not isinstance(getattr(owner, name, None), Tensor):
        raise ConfigError(
            f"finetune.encoder: lora needs blocks with {path}, as OpenAI's and LAION's CLIPs have; "
            f"this encoder's {type(block).__name__} has none; use full or last"
        )
    return owner, name
