"""The formulas of a gap head as slow loops over texts, videos, frames and attention heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gare_cache.heads.gap import GapModule


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


def increment(
    psi: GapModule, text: Tensor, frames: Tensor, mask: Tensor, reference_padding: bool
) -> Tensor:
    """One pair: Delta (D,)."""
    used = [k for k in range(len(frames)) if reference_padding or mask[k]]
    mean = sum((frames[k] for k in used), torch.zeros_like(text)) / len(used)
    query = psi.query_proj(layer_norm(mean - text, psi.norm1))
    keys = [psi.key_proj(layer_norm(frames[k], psi.norm1)) for k in used]
    values = [psi.value_proj(layer_norm(frames[k], psi.norm1)) for k in used]
    width = len(text) // psi.heads
    mixed = []
    for head in range(psi.heads):
        part = slice(head * width, (head + 1) * width)
        weights = softmax([(query[part] @ key[part]).item() / math.sqrt(width) for key in keys])
        mixed.append(sum(w * value[part] for w, value in zip(weights, values, strict=True)))
    hidden = layer_norm(psi.out_proj(torch.cat(mixed)), psi.norm2)
    return psi.mean_proj(layer_norm(hidden + psi.linear1(hidden), psi.norm3))


def cosine(left: Tensor, right: Tensor) -> float:
    norms = left.norm().clamp_min(1e-8) * right.norm().clamp_min(1e-8)
    return (left @ right / norms).item()
