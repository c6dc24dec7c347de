"""Pooling of frames to the scored video vector: their mean, or a mixture chosen by the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.heads.settings import with_defaults


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


POOLINGS: dict[str, Callable[..., Pooling]] = {
    "mean": MeanPooling,
    "text_conditioned": TextConditionedPooling,
}
POOLING_DEFAULTS: dict[str, dict[str, Any]] = {
    "mean": {},
    "text_conditioned": {"temperature": 3.0},
}


def mean_pool(frames: Tensor, mask: Tensor, reference_padding: bool = False) -> Tensor:
    """Average the real frames of each video.

    vbar_j = sum_k m_jk f_jk / sum_k m_jk. A video without a real frame gets 0, never NaN.

    Args:
        frames: (V, F, D).
        mask: (V, F) bool, True on real frames.
        reference_padding: average all slots, padded ones included, as GARE's reference code does.

    Returns:
        (V, D).
    """
    weights = (torch.ones_like(mask) if reference_padding else mask).to(frames.dtype)
    total = torch.einsum("vf,vfd->vd", weights, frames)
    return total / weights.sum(dim=1, keepdim=True).clamp_min(1.0)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Take the softmax of the last dimension over the places where ``mask`` is True.

    Places outside the mask, and whole rows without a place inside it, get 0 and a zero gradient.

    Args:
        scores: (..., F).
        mask: bool, broadcastable to ``scores``.

    Returns:
        Same shape as ``scores``.
    """
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(dim=-1) * mask


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


def build_pooling(settings: Mapping[str, Any], *, reference_padding: bool = False) -> Pooling:
    """Build a pooling from plain values.

    Args:
        settings: ``name`` (a key of ``POOLINGS``) and its settings; ``text_conditioned`` has
            ``temperature``.
        reference_padding: the padding rule of GARE's reference code.

    Raises:
        ConfigError: the name or a setting is unknown or out of range.
    """
    complete = complete_pooling_settings(settings)
    constructor = POOLINGS[complete.pop("name")]
    return constructor(reference_padding=reference_padding, **complete)
