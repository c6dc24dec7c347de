"""Weighted token-wise interaction: each word with its best frame, each frame with its best word."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gare_cache.errors import ConfigError
from gare_cache.heads.cross_attention import initialise
from gare_cache.heads.masking import masked_softmax
from gare_cache.heads.pairs import MIN_NORM, PairScores, Words
from gare_cache.heads.settings import TokenWiseSettings


class TokenWiseInteraction(nn.Module):
    """Compare words and frames one by one.

        c_ijpk = cos(w_ip, f_jk) over real words p of text i and real frames k of video j
        s_ij = 1/2 ( sum_p a_ip max_k c_ijpk + sum_k b_jk max_p c_ijpk )
        a_i = softmax_p(MLP_t(w_ip)),  b_j = softmax_k(MLP_v(f_jk))

    Source: DRL, Wang et al., arXiv:2203.07111 (weighted token-wise interaction), each MLP two
    layers with a ReLU; every Linear starts at N(0, 0.02), bias 0 (``init: normal``), as in its
    code; ``init: torch`` keeps torch's uniform start. Different from its code: padded words and
    frames take no part in the maxima either. The sentence feature is not used. A video or text
    without a real token has the score 0.
    """

    needs_words = True
    side = "text"  # of an increment, which it has not

    def __init__(self, dim: int, settings: TokenWiseSettings) -> None:
        super().__init__()
        self.text_weight = _mlp(dim)
        self.video_weight = _mlp(dim)
        if settings.init == "normal":
            initialise(self, "normal")

    def forward(
        self, text: Tensor, frames: Tensor, mask: Tensor, words: Words | None = None
    ) -> PairScores:
        """Score all pairs: frames (V, F, D), mask (V, F), words (T, W, D) and their mask (T, W).

        Raises:
            ConfigError: no word tokens were given.
        """
        if words is None:
            raise ConfigError("the token_wise interaction compares words, and none were given")
        tokens, real = words
        cosines = torch.einsum(
            "tpd,vkd->tvpk",
            F.normalize(tokens, dim=-1, eps=MIN_NORM),
            F.normalize(frames, dim=-1, eps=MIN_NORM),
        )  # (T, V, W, F)
        of_words = masked_softmax(self.text_weight(tokens)[..., 0], real)  # (T, W)
        of_frames = masked_softmax(self.video_weight(frames)[..., 0], mask)  # (V, F)
        best_frame = _masked_max(cosines, mask[None, :, None], dim=3)  # (T, V, W)
        best_word = _masked_max(cosines, real[:, None, :, None], dim=2)  # (T, V, F)
        from_words = (of_words[:, None] * best_frame).sum(dim=-1)  # (T, V)
        from_frames = (of_frames * best_word).sum(dim=-1)  # (T, V)
        return PairScores((from_words + from_frames) / 2, None)

    def pair_elements(self, num_frames: int, num_words: int, dim: int) -> int:
        """Estimate the numbers that a pair keeps at once."""
        return 4 * num_frames * num_words


def _mlp(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))


def _masked_max(cosines: Tensor, mask: Tensor, *, dim: int) -> Tensor:
    best = cosines.masked_fill(~mask, -2.0).amax(dim=dim)  # below every cosine
    return best.masked_fill(~mask.any(dim=dim), 0.0)
