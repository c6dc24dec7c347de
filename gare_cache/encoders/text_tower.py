"""Run a causal text tower only up to the longest caption of a batch: same features, less work."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Largest relative difference between cut and full context that counts as rounding.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}

_OPEN_CLIPS_CONTEXT = 77  # tokens per caption where neither model nor configuration says


def text_tower(model: Any) -> Any:
    """Return the module that holds the text weights: ``model.text``, or the model itself."""
    return model.text if isinstance(getattr(model, "text", None), nn.Module) else model


def is_masked(model: Any) -> bool:
    """Return whether the text tower is Hugging Face's, which masks padding: any context will do."""
    return hasattr(text_tower(model), "pooler") and hasattr(text_tower(model), "config")


def text_context(model: Any, configured: int | None) -> tuple[int, int | None]:
    """Return the number of tokens per caption, and the largest number that the tower can take.

    Args:
        model: the open_clip model.
        configured: ``context_length`` of the text tower's configuration.

    Returns:
        The configured context, at most the number of usable positions; without a configured one all
        usable positions, or 77 for a tower without positions of its own, such as mT5's, for which
        the largest number is None. RoBERTa's positions begin after the padding's, so that 80
        positions serve 78 tokens.
    """
    if not is_masked(model):
        return int(model.context_length), int(model.context_length)
    tower = text_tower(model)
    embeddings = getattr(tower.transformer, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if isinstance(table, nn.Embedding):
        unused = 0 if table.padding_idx is None else table.padding_idx + 1
        most: int | None = table.num_embeddings - unused
    else:
        most = getattr(tower.config, "max_position_embeddings", None) or None
    context = configured or most or _OPEN_CLIPS_CONTEXT
    return min(context, most or context), most


def encode_cut(tower: Any, tokens: Tensor) -> Tensor:
    """Encode tokens, cut after the longest caption of the batch.

    Under a causal mask no token depends on later ones, so the feature at EOT does not depend on
    the padding. EOT is the largest id, as in CLIP's vocabulary.

    Args:
        tower: a CLIP text tower, see ``can_cut``.
        tokens: (B, context) ids, padded with zeros.

    Returns:
        (B, D) projected features at EOT, not normalised.
    """
    x = _hidden_cut(tower, tokens)  # (B, W, width)
    x = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]  # (B, width)
    return project_text(tower, x)


def encode_words_cut(tower: Any, tokens: Tensor) -> Tensor:
    """Encode tokens as ``encode_cut`` and keep them all: (B, W, D), W of the longest caption.

    The token at EOT is the caption's feature; later tokens are meaningless.
    """
    return project_text(tower, _hidden_cut(tower, tokens))


def project_text(tower: Any, hidden: Tensor) -> Tensor:
    """Project (..., width) hidden states after the last norm to (..., D)."""
    projection = tower.text_projection
    if projection is None:
        return hidden
    linear = isinstance(projection, nn.Linear)
    return torch.as_tensor(projection(hidden) if linear else hidden @ projection)


def _hidden_cut(tower: Any, tokens: Tensor) -> Tensor:
    length = int(tokens.argmax(dim=-1).max()) + 1
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens[:, :length]).to(dtype)  # (B, W, width)
    x = x + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length].to(x.device))
    return torch.as_tensor(tower.ln_final(x))


def can_cut(model: Any, tokens: Tensor) -> bool:
    """Try ``encode_cut`` and return whether it reproduces the model's own features.

    Args:
        model: the open_clip model.
        tokens: (B, context) ids of captions of different length, in the model's context.

    Returns:
        True for a causal tower pooled at EOT whose cut features equal the whole ones up to
        rounding; False for every other tower.
    """
    tower = text_tower(model)
    pooling = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    mask = getattr(tower, "attn_mask", None)
    if pooling != "argmax" or mask is None or getattr(tower, "cls_emb", None) is not None:
        return False
    if not all(hasattr(tower, name) for name in ("token_embedding", "text_projection")):
        return False
    whole = model.encode_text(tokens).float()
    return agree(encode_cut(tower, tokens), whole, tower.transformer.get_cast_dtype())


def agree(features: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Return whether features are equal up to the rounding of their computation's dtype."""
    if features.shape != expected.shape:
        return False
    difference = (features.float() - expected.float()).norm() / expected.float().norm()
    return bool(difference <= _TOLERANCE[dtype])


def head_start(model: Any, *, dim: int, blocks: int = 4) -> dict[str, Tensor]:
    """Return the tensors that retrieval heads start from, in float32 on the CPU.

    Args:
        model: the open_clip model.
        dim: width of the features.
        blocks: number of text blocks, from the bottom.

    Returns:
        ``logit_scale`` (its logarithm) and, if the model has it, ``logit_bias``; for a CLIP text
        tower as wide as the features also ``text.positional_embedding`` (context,
        dim) and ``text.transformer.resblocks.{i}.*``.
    """
    start = {"logit_scale": model.logit_scale}
    if getattr(model, "logit_bias", None) is not None:
        start["logit_bias"] = model.logit_bias
    tower = text_tower(model)
    residual_blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    positions = getattr(tower, "positional_embedding", None)
    if residual_blocks is not None and positions is not None and positions.shape[-1] == dim:
        start["text.positional_embedding"] = positions
        for i, block in enumerate(residual_blocks[:blocks]):
            for name, value in block.state_dict().items():
                start[f"text.transformer.resblocks.{i}.{name}"] = value
    return {name: value.detach().float().cpu().contiguous() for name, value in start.items()}
