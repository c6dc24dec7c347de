"""The registry of interactions: modules that score a text against the frames of a video."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from gare_cache.heads.custom_interaction import build_custom_interaction
from gare_cache.heads.gap import GapModule
from gare_cache.heads.pooled import PooledInteraction
from gare_cache.heads.pooling import build_pooling
from gare_cache.heads.settings import (
    HeadSettings,
    PooledSettings,
    TextConditionedSettings,
    TokenWiseSettings,
)
from gare_cache.heads.token_wise import TokenWiseInteraction
from gare_cache.settings import CustomSettings


def _pooled(
    settings: PooledSettings, *, head: HeadSettings, dim: int, max_frames: int
) -> nn.Module:
    assert head.pooling is not None  # HeadSettings sees to it
    padding = head.reference_padding
    # On the text side the pooled video's direction alone counts, and padding changes its length.
    of_pooling = padding and _length_counts(head)
    pooling = build_pooling(head.pooling, dim=dim, reference_padding=of_pooling)
    if head.gap is None:
        return PooledInteraction(pooling, None)
    return PooledInteraction(pooling, GapModule(dim, head.gap, reference_padding=padding))


def _length_counts(head: HeadSettings) -> bool:
    to_video = head.gap is not None and head.gap.side == "video"
    return to_video or not isinstance(head.pooling, TextConditionedSettings)


def _token_wise(
    settings: TokenWiseSettings, *, head: HeadSettings, dim: int, max_frames: int
) -> nn.Module:
    return TokenWiseInteraction(dim, settings)


# Name -> what builds it; ``settings.INTERACTIONS`` has the settings.
INTERACTIONS: dict[str, Callable[..., nn.Module]] = {
    "pooled": _pooled,
    "token_wise": _token_wise,
}


def build_interaction(head: HeadSettings, *, dim: int, max_frames: int) -> nn.Module:
    """Build the interaction of a head.

    Args:
        head: settings of the head; ``pooling``, ``gap`` and ``reference_padding`` are parts of the
            interaction ``pooled``.
        dim: width D.
        max_frames: the most frames of a video.

    Returns:
        A module (text, frames, mask, words) -> ``PairScores`` with ``needs_words``, ``side`` (which
        item its increment corrects) and ``pair_elements`` (see ``DenseScorer``).

    Raises:
        ConfigError: the settings do not fit the width, or the user's class cannot be built.
    """
    settings = head.interaction
    if isinstance(settings, CustomSettings):
        return build_custom_interaction(settings, dim=dim, max_frames=max_frames)
    constructor = INTERACTIONS[settings.name]
    return constructor(settings, head=head, dim=dim, max_frames=max_frames)
