"""The registry of interactions: what scores a pair of a text and the frames of a video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.heads.combinations import POOLED, TOKEN_WISE
from gare_cache.heads.gap import GapModule
from gare_cache.heads.own_interaction import build_own_interaction
from gare_cache.heads.pooled import PooledInteraction
from gare_cache.heads.pooling import build_pooling
from gare_cache.heads.token_wise import TokenWiseInteraction
from gare_cache.own import complete_own_settings, is_own
from gare_cache.plain_settings import with_defaults


def _pooled(
    dim: int,
    *,
    max_frames: int,
    pooling: Mapping[str, Any],
    gap: Mapping[str, Any] | None,
    reference_padding: bool,
) -> nn.Module:
    pooled = build_pooling(pooling, dim=dim, reference_padding=reference_padding)
    if gap is None:
        return PooledInteraction(pooled, None)
    return PooledInteraction(pooled, GapModule(dim, **gap, reference_padding=reference_padding))


def _token_wise(dim: int, *, max_frames: int) -> nn.Module:
    return TokenWiseInteraction(dim)


INTERACTIONS: dict[str, Callable[..., nn.Module]] = {POOLED: _pooled, TOKEN_WISE: _token_wise}


def find_interaction(name: str) -> Callable[..., nn.Module]:
    """Look up what builds an interaction: called as ``(dim, max_frames=F, **settings)``.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in INTERACTIONS:
        raise ConfigError(unknown_name("interaction", name, INTERACTIONS))
    return INTERACTIONS[name]


def complete_interaction_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check an interaction's settings and fill in the defaults.

    Args:
        settings: ``name``; ``options`` too for a class of one's own.

    Returns:
        All settings of that interaction, ``name`` included.

    Raises:
        ConfigError: the name or a setting is unknown.
    """
    name = str(settings.get("name", POOLED))
    if is_own(name):
        return complete_own_settings(settings, what="interaction")
    find_interaction(name)
    return with_defaults(f"interaction {name!r}", settings, {"name": name})


def build_interaction(
    settings: Mapping[str, Any], *, dim: int, max_frames: int, **parts: Any
) -> nn.Module:
    """Build an interaction from plain values.

    Args:
        settings: as ``complete_interaction_settings`` returns them.
        dim: width D.
        max_frames: the most frames of a video.
        parts: of ``pooled``: ``pooling``, ``gap`` and ``reference_padding``.

    Returns:
        A module (text, frames, mask, words) -> ``PairScores`` with ``needs_words``, ``side`` (which
        item its increment corrects) and ``pair_elements`` (see ``DenseScorer``).

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    if is_own(settings["name"]):
        return build_own_interaction(settings, dim=dim, max_frames=max_frames)
    constructor = find_interaction(settings["name"])
    return constructor(dim, max_frames=max_frames, **parts)
