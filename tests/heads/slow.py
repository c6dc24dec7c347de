"""The formulas of the heads as slow loops over texts, videos, tokens and attention heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gare_cache.heads.cross_attention import CrossAttentionLayer
from gare_cache.heads.gap import GapModule
from gare_cache.heads.token_wise import TokenWiseInteraction


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def layer_norm(vector: Tensor, norm: nn.LayerNorm) -> Tensor:
    variance = ((vector - vector.mean()) ** 2).mean()
    return norm.weight * (vector - vector.mean()) / (variance + norm.eps).sqrt() + norm.bias


def pooled(
    text: Tensor, frames: Tensor, mask: Tensor, temperature: float, reference_padding: bool
) -> Tensor:
    """One pair: ``text`` (D,), ``frames`` (F, D), ``mask`` (F,)."""
    used = [k for k in range(len(frames)) if reference_padding or mask[k]]
    weights = softmax([(text @ frames[k]).item() / temperature for k in used])
    real = [(w, k) for w, k in zip(weights, used, strict=True) if mask[k]]
    return sum((w * frames[k] for w, k in real), torch.zeros_like(text))


def attended(layer: CrossAttentionLayer, query: Tensor, tokens: list[Tensor]) -> Tensor:
    """One pair: ``query`` (D,) and the tokens (D,) that are attended to."""
    queries = layer.query_proj(layer_norm(query, layer.norm1))
    keys = [layer.key_proj(layer_norm(token, layer.norm1)) for token in tokens]
    values = [layer.value_proj(layer_norm(token, layer.norm1)) for token in tokens]
    width = len(query) // layer.heads
    mixed = []
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        weights = softmax([(queries[part] @ key[part]).item() / math.sqrt(width) for key in keys])
        mixed.append(sum(w * value[part] for w, value in zip(weights, values, strict=True)))
    hidden = layer_norm(layer.out_proj(torch.cat(mixed)), layer.norm2)
    return layer_norm(hidden + layer.linear1(hidden), layer.norm3)


def increment(
    psi: GapModule,
    text: Tensor,
    frames: Tensor,
    mask: Tensor,
    reference_padding: bool,
    words: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """One pair: Delta (D,); ``words``: tokens (W, D) and their mask (W,)."""
    used = [k for k in range(len(frames)) if reference_padding or mask[k]]
    mean = sum((frames[k] for k in used), torch.zeros_like(text)) / len(used)
    tokens = [frames[k] for k in used]
    if psi.context == "words":
        tokens = [token for token, real in zip(*words, strict=True) if real]
    hidden = text if psi.query == "text" else psi.eta * (mean - text)
    for layer in psi.layers:
        hidden = attended(layer, hidden, tokens)
    return psi.mean_proj(hidden)


def token_wise(
    interaction: TokenWiseInteraction, words: list[Tensor], frames: list[Tensor]
) -> float:
    """One pair of real words and real frames, each (D,)."""
    of_words = softmax([interaction.text_weight(word).item() for word in words])
    of_frames = softmax([interaction.video_weight(frame).item() for frame in frames])
    best_frames = [max(cosine(word, frame) for frame in frames) for word in words]
    best_words = [max(cosine(word, frame) for word in words) for frame in frames]
    from_words = sum(w * c for w, c in zip(of_words, best_frames, strict=True))
    from_frames = sum(w * c for w, c in zip(of_frames, best_words, strict=True))
    return (from_words + from_frames) / 2


def cosine(left: Tensor, right: Tensor) -> float:
    norms = left.norm().clamp_min(1e-8) * right.norm().clamp_min(1e-8)
    return (left @ right / norms).item()
