"""Pooling of frames to the scored video vector: their mean, or what the text makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.heads.cross_attention import CrossAttentionLayer, initialise
from gare_cache.heads.masking import masked_softmax, mean_pool
from gare_cache.plain_settings import with_defaults


class Pooling(Protocol):
    """A pooling as a mixture: p_ij = sum_k w_ijk x_jk over the slots x_jk of video j."""

    def slots(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors that are mixed (V, P, D) and which of them are real (V, P)."""

    def weights(self, products: Tensor, mask: Tensor) -> Tensor:
        """Return the weights (T, V, P), or (1, V, P), from ``products`` t_i . x_jk (T, V, P)."""


@dataclass(frozen=True)
class MeanPooling:
    """The mean frame: one slot a video, weight 1."""

    reference_padding: bool = False

    def slots(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean as the only slot (V, 1, D), and a mask (V, 1) that is True."""
        mean = mean_pool(frames, mask, self.reference_padding)
        return mean[:, None], torch.ones_like(mask[:, :1])

    def weights(self, products: Tensor, mask: Tensor) -> Tensor:
        """Return ones (1, V, 1): the same video vector for every text."""
        return products.new_ones(1, *products.shape[1:])


@dataclass(frozen=True)
class TextConditionedPooling:
    """Frames weighted by their product with the text.

    w_ijk = softmax_k(t_i . f_jk / temperature) over real frames, temperature 3. Source: the
    reference code of GARE, arXiv:2505.12499; the paper does not mention it. With
    ``reference_padding`` the softmax runs over all slots and is then multiplied by the mask
    without renormalising, as in the reference code: same direction, another length.
    """

    temperature: float = 3.0
    reference_padding: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"pooling.temperature is {self.temperature!r}; it must be above 0")

    def slots(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frames (V, F, D) and their mask (V, F)."""
        return frames, mask

    def weights(self, products: Tensor, mask: Tensor) -> Tensor:
        """Return the weights (T, V, F); 0 on padding."""
        scores = products / self.temperature
        if self.reference_padding:
            return scores.softmax(dim=-1) * mask
        return masked_softmax(scores, mask)


class CrossAttentionPooling(nn.Module):
    """X-Pool: the text attends over the frames.

        p_ij = y of a ``CrossAttentionLayer`` with query t_i and context f_jk, k over real frames

    Source: X-Pool, Gorti et al., arXiv:2203.15086: every Linear starts at the identity with bias 0,
    dropout 0.3 on the last one, 1 head. Different: padded frames are not attended to.
    """

    def __init__(self, dim: int, *, heads: int = 1, dropout: float = 0.3) -> None:
        """Build the pooling.

        Args:
            dim: width D.
            heads: attention heads, a divisor of D.
            dropout: probability in [0, 1), active in training mode only.

        Raises:
            ConfigError: a value is out of range.
        """
        super().__init__()
        self.layer = CrossAttentionLayer(dim, heads=heads, dropout=dropout, what="pooling")
        initialise(self, "identity", what="pooling")

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Pool: text (T, D), frames (V, F, D), mask (V, F) -> (T, V, D)."""
        pooled: Tensor = self.layer(text[:, None], frames, mask, owner="video")
        return pooled


def _mean(dim: int, *, reference_padding: bool) -> Pooling:
    return MeanPooling(reference_padding)


def _text_conditioned(dim: int, *, reference_padding: bool, temperature: float) -> Pooling:
    return TextConditionedPooling(temperature, reference_padding)


def _cross_attention(
    dim: int, *, reference_padding: bool, heads: int, dropout: float
) -> CrossAttentionPooling:
    return CrossAttentionPooling(dim, heads=heads, dropout=dropout)


POOLINGS: dict[str, Callable[..., Pooling | CrossAttentionPooling]] = {
    "mean": _mean,
    "text_conditioned": _text_conditioned,
    "cross_attention": _cross_attention,
}
POOLING_DEFAULTS: dict[str, dict[str, Any]] = {
    "mean": {},
    "text_conditioned": {"temperature": 3.0},
    "cross_attention": {"heads": 1, "dropout": 0.3},
}


def pool(pooling: Pooling, text: Tensor, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pool densely, with the pair tensor.

    Args:
        pooling: which mixture.
        text: (T, D).
        frames: (V, F, D).
        mask: (V, F) bool.

    Returns:
        The pooled videos (T, V, D) and the weights (T, V, P); T is 1 where all texts share them.
    """
    slots, slot_mask = pooling.slots(frames, mask)
    weights = pooling.weights(torch.einsum("td,vpd->tvp", text, slots), slot_mask)
    return torch.einsum("tvp,vpd->tvd", weights, slots), weights


def text_conditioned_pool(
    text: Tensor,
    frames: Tensor,
    mask: Tensor,
    *,
    temperature: float = 3.0,
    reference_padding: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mix the frames of each video by their product with each text.

    p_ij = sum_k w_ijk f_jk with w of ``TextConditionedPooling``.

    Args:
        text: (T, D).
        frames: (V, F, D).
        mask: (V, F) bool, True on real frames.
        temperature: divides the products before the softmax, above 0.
        reference_padding: the padding rule of GARE's reference code.

    Returns:
        The pooled videos (T, V, D) and the weights (T, V, F); both 0 for a video without a
        real frame.

    Raises:
        ConfigError: the temperature is not above 0.
    """
    return pool(TextConditionedPooling(temperature, reference_padding), text, frames, mask)


def complete_pooling_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check a pooling's settings and fill in the defaults.

    Args:
        settings: ``name`` and the settings of that pooling.

    Returns:
        All settings of that pooling, ``name`` included.

    Raises:
        ConfigError: the name or a setting is unknown.
    """
    name = str(settings.get("name", "text_conditioned"))
    if name not in POOLINGS:
        raise ConfigError(unknown_name("pooling", name, POOLINGS))
    defaults = {"name": name, **POOLING_DEFAULTS[name]}
    return with_defaults(f"pooling {name!r}", settings, defaults)


def build_pooling(
    settings: Mapping[str, Any], *, dim: int, reference_padding: bool = False
) -> Pooling | CrossAttentionPooling:
    """Build a pooling from plain values.

    Args:
        settings: ``name`` (a key of ``POOLINGS``) and its settings; ``text_conditioned`` has
            ``temperature``, ``cross_attention`` has ``heads`` and ``dropout``.
        dim: width D.
        reference_padding: the padding rule of GARE's reference code, which has no cross-attention.

    Raises:
        ConfigError: the name or a setting is unknown or out of range.
    """
    complete = complete_pooling_settings(settings)
    constructor = POOLINGS[complete.pop("name")]
    return constructor(dim, reference_padding=reference_padding, **complete)
