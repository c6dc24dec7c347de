"""GARE's gap module psi: from the gap between a text and a video to the increment Delta."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from gare_cache.errors import ConfigError
from gare_cache.heads.cross_attention import CrossAttentionLayer, initialise
from gare_cache.heads.masking import mean_pool
from gare_cache.heads.pairs import Words
from gare_cache.heads.settings import GapSettings


class GapModule(nn.Module):
    """Cross-attention from the gap to the frames of the video or the words of the text.

        q_ij = eta (vbar_j - t_i), or t_i without a gap
        y_ij = layers(q_ij, context), each a ``CrossAttentionLayer`` on the one before
        Delta_ij = Wm y_ij + bm

    Source: GARE, arXiv:2505.12499, and its reference code. Left out of the reference code: the
    log-variance head and the feed-forward layers, whose output it never uses. Different: more than
    one layer is chained; the reference code gives every layer the gap and keeps the last alone.
    """

    def __init__(self, dim: int, settings: GapSettings, *, reference_padding: bool = False) -> None:
        """Build the module.

        Args:
            dim: width D.
            settings: ``side``: which item the increment corrects; ``context``: the keys and
                values, frames of the video or words of the text; ``query``: the gap, or the text
                for psi without a gap; ``eta``: sign of the gap; ``init``: ``normal``: every Linear
                N(0, 0.02), bias 0, as the published numbers were trained, or ``identity``: every
                Linear the identity, bias 0.
            reference_padding: count padded frames in the mean and attend to them, as GARE's
                reference code does. Padded words are never attended to.

        Raises:
            ConfigError: the attention heads do not divide the width.
        """
        super().__init__()
        self.side = settings.side
        self.context = settings.context
        self.query = settings.query
        self.eta = settings.eta
        self.heads = settings.heads
        self.reference_padding = reference_padding
        self.layers = nn.ModuleList(
            CrossAttentionLayer(
                dim, heads=settings.heads, dropout=settings.dropout, what="head.gap"
            )
            for _ in range(settings.layers)
        )
        self.mean_proj = nn.Linear(dim, dim)
        initialise(self, settings.init)

    @property
    def context_side(self) -> str:
        """Side that supplies keys and values: ``text`` or ``video``."""
        return "text" if self.context == "words" else "video"

    @property
    def drops(self) -> bool:
        """Whether a dropout is active."""
        return any(cast(CrossAttentionLayer, layer).drops for layer in self.layers)

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor, words: Words | None) -> Tensor:
        """Compute the increment of every pair.

        Args:
            text: (T, D).
            frames: (V, F, D).
            mask: (V, F) bool, True on real frames.
            words: tokens (T, W, D) and their mask (T, W); read where they are the context.

        Returns:
            Delta, (T, V, D); V is 1 where the increment depends on the text alone, T is never.
            Finite also for a video or text whose mask is all False.
        """
        if self.context_side == "text":
            context, attended = self.attended_words(words)
        else:
            context, attended = self.attended_frames(frames, mask)
        hidden = self.queries(text, frames, mask)
        for layer in self.layers:
            hidden = layer(hidden, context, attended, context_side=self.context_side)
        delta: Tensor = self.mean_proj(hidden)
        return delta.expand(len(text), len(frames), -1)  # (T, V, D)

    def only_layer(self) -> CrossAttentionLayer:
        """Return the layer of a module of depth 1.

        Raises:
            ConfigError: there are more layers.
        """
        if len(self.layers) != 1:
            raise ConfigError(
                f"gap.layers is {len(self.layers)}; the exact form is for 1 layer, score densely"
            )
        (layer,) = self.layers
        return cast(CrossAttentionLayer, layer)

    def queries(self, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Return the attention queries: eta (vbar_j - t_i), (T, V, D), or t_i, (T, 1, D)."""
        if self.query == "text":
            return text[:, None]  # (T, 1, D)
        return self.eta * (self.video_mean(frames, mask) - text[:, None])  # (T, V, D)

    def video_mean(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return the mean frame of each video, (V, D)."""
        return mean_pool(frames, mask, self.reference_padding)

    def attended_frames(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frames as context, (V, F, D), and which to attend to, (V, F)."""
        return frames, mask.new_ones(mask.shape) if self.reference_padding else mask

    def attended_words(self, words: Words | None) -> Words:
        """Return the words as context; their mask says which to attend to.

        Raises:
            ConfigError: there are none.
        """
        if words is None:
            raise ConfigError("gap.context is words, and no word tokens were given")
        return words
