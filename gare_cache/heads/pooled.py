"""The interaction of GARE: the cosine of a text and a pooled video, one of them corrected."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from gare_cache.heads.gap import GapModule, gap_context
from gare_cache.heads.pairs import PairScores, PairVectors, Words
from gare_cache.heads.pooling import Pooling, pool
from gare_cache.heads.scoring import exact_scores, pair_cosine, video_basis


class PooledInteraction(nn.Module):
    """Score texts against pooled videos.

        without a gap module: s_ij = cos(t_i, p_ij), p the pooled video
        with one:             s_ij = cos(t_i + Delta_ij, p_ij), Delta_ij = psi(vbar_j - t_i, f_j)

    Source: GARE, arXiv:2505.12499, text side with the frames as context.
    """

    def __init__(self, pooling: Pooling, gap: GapModule | None, *, reference_padding: bool) -> None:
        super().__init__()
        self.pooling = pooling
        self.gap = gap
        self.reference_padding = reference_padding

    @property
    def needs_words(self) -> bool:
        """Whether the score depends on the texts' word tokens."""
        return False

    @property
    def side(self) -> str:
        """The side that the increment corrects, ``text`` or ``video``."""
        return "text"

    @property
    def exact(self) -> bool:
        """Whether there is an exact score without the pair tensor."""
        return True

    def forward(
        self, text: Tensor, frames: Tensor, mask: Tensor, words: Words | None = None
    ) -> PairScores:
        """Score all pairs with the pair tensor: text (T, D), frames (V, F, D), mask (V, F)."""
        vectors = self.vectors(text, frames, mask, words)
        anchors = vectors.text[:, None]
        if vectors.delta is not None:
            anchors = anchors + vectors.delta
        return PairScores(pair_cosine(anchors, vectors.video), vectors.delta)

    def vectors(
        self, text: Tensor, frames: Tensor, mask: Tensor, words: Words | None = None
    ) -> PairVectors:
        """Return the vectors that ``forward`` compares."""
        pooled, _ = pool(self.pooling, text, frames, mask)
        if self.gap is None:
            return PairVectors(text, pooled, None)
        video_mean, attended = gap_context(frames, mask, self.reference_padding)
        delta = self.gap(video_mean - text[:, None], frames, attended)
        return PairVectors(text, pooled, delta)

    def scorer(self, frames: Tensor, mask: Tensor) -> Callable[[Tensor, Words | None], Tensor]:
        """Prepare the exact score of some videos; returns (text, words) -> cosines (T, V)."""
        basis = video_basis(
            frames, mask, self.pooling, gap=self.gap, reference_padding=self.reference_padding
        )
        return lambda text, words: exact_scores(text, basis)
