"""Scoring with the pair tensors, for interactions without an exact form."""

from __future__ import annotations

from torch import Tensor, nn

from gare_cache.heads.pairs import PairScores, Words
from gare_cache.heads.scoring import Footprint


class DenseScorer:
    """Scores pairs with an interaction's ``forward``; a ``Scorer``."""

    def __init__(self, interaction: nn.Module) -> None:
        self.interaction = interaction

    def footprint(self, num_frames: int, num_words: int, dim: int) -> Footprint:
        """Estimate the memory; an interaction says what a pair takes by ``pair_elements``."""
        pair: int = self.interaction.pair_elements(num_frames, num_words, dim)  # type: ignore[operator]
        video = 8 * num_frames * dim
        return Footprint(20 * num_frames * dim, video, 8 * num_words * dim, pair)

    def videos(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Keep aggregated frames (V, F, D) and their mask."""
        return frames, mask

    def texts(self, text: Tensor, words: Words | None) -> tuple[Tensor, Words | None]:
        """Keep texts (T, D) and their words."""
        return text, words

    def score(self, texts: tuple[Tensor, Words | None], videos: tuple[Tensor, Tensor]) -> Tensor:
        """Return the cosines (T, V)."""
        text, words = texts
        scores: PairScores = self.interaction(text, *videos, words)
        return scores.similarity
