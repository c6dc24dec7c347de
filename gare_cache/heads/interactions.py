"""The registry of interactions: what scores a pair of a text and the frames of a video."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from gare_cache.heads.gap import GapModule
from gare_cache.heads.own_interaction import build_own_interaction
from gare_cache.heads.pooled import PooledInteraction
from gare_cache.heads.pooling import build_pooling
from gare_cache.heads.settings import HeadSettings
from gare_cache.heads.token_wise import TokenWiseInteraction
from gare_cache.settings import CustomSettings


def _pooled(settings: HeadSettings, *, dim: int, max_frames: int) -> nn.Module:
    assert settings.pooling is not None  # HeadSettings sees to it
    padding = settings.reference_padding
    pooling = build_pooling(settings.pooling, dim=dim, reference_padding=padding)
    if settings.gap is None:
        return PooledInteraction(pooling, None)
    return PooledInteraction(pooling, GapModule(dim, settings.gap, reference_padding=padding))


def _token_wise(settings: HeadSettings, *, dim: int, max_frames: int) -> nn.Module:
    return TokenWiseInteraction(dim)


# Name -> what builds it, from the settings of the whole head; ``settings.INTERACTIONS`` has those
# of the interaction, which are ``settings.interaction`` here.
INTERACTIONS: dict[str, Callable[..., nn.Module]] = {
    "pooled": _pooled,
    "token_wise": _token_wise,
}


def build_interaction(settings: HeadSettings, *, dim: int, max_frames: int) -> nn.Module:
    """Build the interaction of a head.

    Args:
        settings: of the whole head: ``pooling``, ``gap`` and ``reference_padding`` are parts of the
            interaction ``pooled``.
        dim: width D.
        max_frames: the most frames of a video.

    Returns:
        A module (text, frames, mask, words) -> ``PairScores`` with ``needs_words``, ``side`` (which
        item its increment corrects) and ``pair_elements`` (see ``DenseScorer``).

    Raises:
        ConfigError: the settings do not fit the width, or the user's class cannot be built.
    """
    interaction = settings.interaction
    if isinstance(interaction, CustomSettings):
        return build_own_interaction(interaction, dim=dim, max_frames=max_frames)
    return INTERACTIONS[interaction.name](settings, dim=dim, max_frames=max_frames)
