"""The interaction of GARE: the cosine of a text and a pooled video, one of them corrected."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gare_cache.heads.exact import (
    TextBasis,
    VideoBasis,
    exact_scores,
    slot_weights,
    text_basis,
    video_basis,
)
from gare_cache.heads.gap import GapModule
from gare_cache.heads.increment_basis import (
    centred_mean,
    dropped_outputs,
    gap_attention,
    pooling_attention,
    quadratic,
)
from gare_cache.heads.pairs import MIN_NORM, PairScores, PairVectors, Words
from gare_cache.heads.pooling import CrossAttentionPooling, Pooling, pool
from gare_cache.heads.scoring import Footprint, pair_cosine
from gare_cache.heads.video_rows import row_products


class PooledInteraction(nn.Module):
    """Score texts against pooled videos.

        without a gap module:  s_ij = cos(t_i, p_ij), p the pooled video
        with one, text side:   s_ij = cos(t_i + Delta_ij, p_ij), Delta of ``GapModule``
        with one, video side:  s_ij = cos(t_i, p_ij + Delta_ij)

    Source: GARE, arXiv:2505.12499.
    """

    def __init__(self, pooling: Pooling | CrossAttentionPooling, gap: GapModule | None) -> None:
        super().__init__()
        self.pooling = pooling
        self.gap = gap

    @property
    def needs_words(self) -> bool:
        """Whether the score depends on the texts' word tokens."""
        return self.gap is not None and self.gap.context == "words"

    @property
    def side(self) -> str:
        """The side that the increment corrects, ``text`` or ``video``."""
        return "text" if self.gap is None else self.gap.side

    def forward(
        self, text: Tensor, frames: Tensor, mask: Tensor, words: Words | None = None
    ) -> PairScores:
        """Score all pairs with the pair tensor: text (T, D), frames (V, F, D), mask (V, F)."""
        vectors = self.vectors(text, frames, mask, words)
        anchors = vectors.text[:, None]  # (T, 1, D)
        videos, delta = vectors.video, vectors.delta
        if delta is not None and self.side == "text":
            anchors = anchors + delta
        elif delta is not None:
            videos = videos + delta
        return PairScores(pair_cosine(anchors, videos), delta)

    def pair_scores(
        self,
        text: Tensor,
        frames: Tensor,
        mask: Tensor,
        words: Words | None = None,
        *,
        rescore: bool = True,
    ) -> PairScores:
        """Score all pairs as ``forward`` does, at the least cost; the increments may be mixtures.

        Args:
            text: (T, D).
            frames: (V, F, D).
            mask: (V, F) bool.
            words: tokens (T, W, D) and their mask (T, W); read where they are the context.
            rescore: score pairs that nearly cancel densely; False only marks them as ``cancelled``,
                without a step that depends on the numbers, which ``torch.vmap`` could not take.
        """
        if self.gap is not None and (len(self.gap.layers) > 1 or self._pooling_drops):
            return self.forward(text, frames, mask, words)
        if self._pooling_drops:
            return self._pooled_with_dropout(text, frames, mask)
        if self.gap is not None and self.gap.drops:
            return self._corrected_with_dropout(self.gap, text, frames, mask, words)
        scorer = ExactScorer(self)
        videos = scorer.videos(frames, mask)
        return scorer.scores(
            scorer.texts(text, words), videos, with_increment=True, rescore=rescore
        )

    @property
    def _pooling_drops(self) -> bool:
        return isinstance(self.pooling, CrossAttentionPooling) and self.pooling.layer.drops

    def _pooled_with_dropout(self, text: Tensor, frames: Tensor, mask: Tensor) -> PairScores:
        assert isinstance(self.pooling, CrossAttentionPooling)
        layer = self.pooling.layer
        basis = pooling_attention(layer, frames, mask)
        outputs = dropped_outputs(layer, basis, text, text.new_zeros(1, text.shape[-1]))
        parts = [pair_cosine(text[:, None], block.transpose(0, 1)) for _, block in outputs]
        return PairScores(torch.cat(parts, dim=1), None)

    def _corrected_with_dropout(
        self, gap: GapModule, text: Tensor, frames: Tensor, mask: Tensor, words: Words | None
    ) -> PairScores:
        mean = centred_mean(gap, frames, mask)
        of_text = gap.context_side == "text"
        context = gap.attended_words(words) if of_text else gap.attended_frames(frames, mask)
        basis = gap_attention(gap, *context, gap_part=text if of_text else mean)
        pooled = video_basis(frames, mask, self.pooling, None)
        products = row_products(pooled.slots, text)  # (V, P, T)
        weights = slot_weights(pooled, text, self.pooling, products).permute(2, 0, 1)  # (T, V, P)
        every = slice(None)
        parts, increments = [], []
        for part, block in dropped_outputs(gap.only_layer(), basis, text, mean):
            rows, columns = (part, every) if of_text else (every, part)
            increments.append(gap.mean_proj(block))
            delta = increments[-1] if of_text else increments[-1].transpose(0, 1)  # (t, v, D)
            slots = pooled.slots[columns], pooled.slots_gram[columns]
            parts.append(self._cosines(text[rows], *slots, weights[rows, columns], delta))
        delta = torch.cat(increments) if of_text else torch.cat(increments).transpose(0, 1)
        similarity = torch.cat(parts, dim=0 if of_text else 1)
        return PairScores(similarity, delta.expand(*similarity.shape, -1))

    def _cosines(
        self, text: Tensor, slots: Tensor, slots_gram: Tensor, weights: Tensor, delta: Tensor
    ) -> Tensor:
        if self.side == "video":
            pooled = torch.einsum("tvp,vpd->tvd", weights, slots)
            return pair_cosine(text[:, None], pooled + delta)
        corrected = text[:, None] + delta
        along = torch.einsum("tvd,vpd->tvp", corrected, slots)
        video_norms = quadratic(weights, slots_gram, "video").clamp_min(MIN_NORM**2).sqrt()
        text_norms = torch.linalg.vector_norm(corrected, dim=-1).clamp_min(MIN_NORM)
        cosines: Tensor = (weights * along).sum(dim=-1) / (text_norms * video_norms)
        return cosines

    def vectors(
        self, text: Tensor, frames: Tensor, mask: Tensor, words: Words | None = None
    ) -> PairVectors:
        """Return the vectors that ``forward`` compares."""
        if isinstance(self.pooling, CrossAttentionPooling):
            pooled = self.pooling(text, frames, mask)
        else:
            pooled, _ = pool(self.pooling, text, frames, mask)
        delta = None if self.gap is None else self.gap(text, frames, mask, words)
        return PairVectors(text, pooled, delta)

    def pair_elements(self, num_frames: int, num_words: int, dim: int) -> int:
        """Estimate the numbers that a pair keeps at once in ``forward``."""
        context = num_words if self.needs_words else num_frames
        heads = 0 if self.gap is None else self.gap.heads
        if isinstance(self.pooling, CrossAttentionPooling):
            heads += self.pooling.layer.heads
        return 14 * dim + 4 * num_frames + 4 * heads * max(context, num_frames)

    def exact_scorer(self) -> ExactScorer | None:
        """Return the score without the pair tensor; None where there is no exact form.

        There is none for a gap module of more than one layer.
        """
        if self.gap is not None and len(self.gap.layers) > 1:
            return None
        return ExactScorer(self)


class ExactScorer:
    """Scores pairs as ``PooledInteraction`` does at evaluation, see ``gare_cache.heads.exact``.

    Pairs whose item and increment nearly cancel are scored densely.
    """

    def __init__(self, interaction: PooledInteraction) -> None:
        self.interaction = interaction
        self.pooling = interaction.pooling
        self.gap = interaction.gap

    def texts_per_video(self, num_frames: int) -> int:
        """Return from how many texts on it is faster than the score with the pair tensor.

        Preparing a video for a gap module or a learned pooling takes some products with D x D
        matrices for each of its frames, and the score with the pair tensor as many for each text.
        """
        if self.gap is not None and self.gap.context_side == "text":
            return 1
        learned = isinstance(self.pooling, CrossAttentionPooling)
        return num_frames if learned or self.gap is not None else 1

    def footprint(self, num_frames: int, num_words: int, dim: int) -> Footprint:
        """Estimate the memory; ``Scorer``."""
        heads = 0 if self.gap is None else self.gap.heads
        encoding = 20 * num_frames * dim
        slots, learned = num_frames, 0
        if isinstance(self.pooling, CrossAttentionPooling):
            slots = self.pooling.layer.heads * num_frames + 2
            learned = 12 * slots * dim + 9 * slots * slots
        if self.gap is None or self.gap.context_side == "video":
            rows = heads * num_frames + 2
            video = (12 * rows + 2 * slots) * dim + 9 * rows * rows + learned
            return Footprint(encoding, video, 0, 6 * slots + 12 * rows)
        rows = heads * num_words + 2
        return Footprint(
            encoding,
            video=(slots + num_frames + 1) * dim + slots * slots + learned,
            text=(4 * num_words + 10 * rows) * dim + 6 * rows * rows,
            pair=5 * slots + 10 * rows,
        )

    def videos(self, frames: Tensor, mask: Tensor) -> VideoBasis:
        """Prepare aggregated frames (V, F, D)."""
        return video_basis(frames, mask, self.pooling, self.gap)

    def texts(self, text: Tensor, words: Words | None) -> TextBasis:
        """Prepare texts (T, D)."""
        return text_basis(text, words, self.gap)

    def score(self, texts: TextBasis, videos: VideoBasis) -> Tensor:
        """Return the cosines (T, V)."""
        return self.scores(texts, videos, with_increment=False).similarity

    def scores(
        self, texts: TextBasis, videos: VideoBasis, *, with_increment: bool, rescore: bool = True
    ) -> PairScores:
        """Return the cosines and, if asked for, the increments; differentiable.

        ``rescore`` as of ``PooledInteraction.pair_scores``.
        """
        exact = exact_scores(
            texts,
            videos,
            self.pooling,
            side=self.interaction.side,
            with_increment=with_increment,
        )
        scores = exact.similarity
        if not rescore:
            return PairScores(scores, exact.increment, exact.cancelled)
        for video in exact.cancelled.any(dim=0).nonzero().flatten().tolist():
            rows = exact.cancelled[:, video].nonzero().flatten()
            words = None if texts.words is None else (texts.words[0][rows], texts.words[1][rows])
            of_video = slice(video, video + 1)
            dense = self.interaction(
                texts.text[rows], videos.frames[of_video], videos.mask[of_video], words
            )
            scores[rows, video] = dense.similarity[:, 0]
        return PairScores(scores, exact.increment)
