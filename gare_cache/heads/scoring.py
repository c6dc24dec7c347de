"""Scores of many pairs: cosines from pair tensors, and blocks that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gare_cache.errors import ConfigError
from gare_cache.heads.pairs import MIN_NORM, Words

DEFAULT_BLOCK_BYTES = 256 * 2**20
# More bytes at once leave the processor's cache where texts need nothing prepared.
_LIGHT_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Footprint:
    """Upper estimates of the tensor elements that are held at once while pairs are scored.

    Attributes:
        encoding: of a video while its frames are projected and aggregated.
        video: of a video that is ready to be scored.
        text: of a text that is ready to be scored, beside its features.
        pair: of a pair.
    """

    encoding: int
    video: int
    text: int
    pair: int


@dataclass(frozen=True)
class BlockShape:
    """How many texts and videos are scored at once.

    Attributes:
        texts: texts scored at once.
        videos: videos scored, and encoded, at once.
        kept: videos kept ready while all texts pass.
    """

    texts: int
    videos: int
    kept: int


class Scorer(Protocol):
    """Scores pairs of texts and videos, each side prepared once a block."""

    def footprint(self, num_frames: int, num_words: int, dim: int) -> Footprint:
        """Estimate the memory."""

    def videos(self, frames: Tensor, mask: Tensor) -> Any:
        """Prepare aggregated frames (V, F, D)."""

    def texts(self, text: Tensor, words: Words | None) -> Any:
        """Prepare texts (T, D)."""

    def score(self, texts: Any, videos: Any) -> Tensor:
        """Return the cosines (T, V)."""


def pair_cosine(anchors: Tensor, pooled: Tensor) -> Tensor:
    """Take the cosine of every pair from the pair tensors.

    cos(a_ij, p_ij), each norm clamped at 1e-8.

    Args:
        anchors: (T, V, D) or (T, 1, D).
        pooled: (T, V, D) or (1, V, D).

    Returns:
        (T, V).
    """
    products = torch.einsum("tvd,tvd->tv", anchors, pooled)  # (T, V)
    anchor_norms: Tensor = torch.linalg.vector_norm(anchors, dim=-1)
    pooled_norms: Tensor = torch.linalg.vector_norm(pooled, dim=-1)
    return products / (anchor_norms.clamp_min(MIN_NORM) * pooled_norms.clamp_min(MIN_NORM))


def blocks(count: int, size: int) -> Iterator[slice]:
    """Cut ``range(count)`` into slices of at most ``size``."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def block_shape(footprint: Footprint, *, element_bytes: int, block_bytes: int) -> BlockShape:
    """Choose how many texts and videos to score at once.

    Where texts need nothing prepared, half of the memory is for the videos, their encoding
    included, and half for the pairs. Else the videos that are kept, their encoding, the texts and
    the pairs have a quarter each.

    Args:
        footprint: numbers that live at once.
        element_bytes: bytes of one number.
        block_bytes: memory that the blocks may take; one pair at a time is the least there is.

    Returns:
        Counts of at least 1.

    Raises:
        ConfigError: ``block_bytes`` is not positive.
    """
    if block_bytes <= 0:
        raise ConfigError(f"block_bytes is {block_bytes!r}; it must be a positive number of bytes")
    elements = block_bytes // element_bytes
    encoding = footprint.encoding + footprint.video
    if footprint.text == 0:
        elements = min(elements, _LIGHT_BLOCK_BYTES // element_bytes)
        videos = max(1, elements // 2 // encoding)
        return BlockShape(max(1, elements // 2 // (footprint.pair * videos)), videos, videos)
    quarter = elements // 4
    texts = max(1, quarter // footprint.text)
    videos = max(1, min(quarter // encoding, quarter // (footprint.pair * texts)))
    if videos == 1:  # a pair is larger than a text: fewer texts at once
        texts = max(1, min(texts, quarter // footprint.pair))
    return BlockShape(texts, videos, max(videos, quarter // footprint.video))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and every part back into its own mode at the end."""
    in_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in in_training:
            part.training = True
