"""The retrieval head: projection, temporal aggregator, interaction and logit scale."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.heads.aggregators import (
    TransformerAggregator,
    build_aggregator,
    complete_aggregator_settings,
)
from gare_cache.heads.gap import GapModule, complete_gap_settings
from gare_cache.heads.pairs import PairScores, PairVectors, Words
from gare_cache.heads.pooled import PooledInteraction
from gare_cache.heads.pooling import build_pooling, complete_pooling_settings
from gare_cache.heads.scoring import (
    DEFAULT_BLOCK_BYTES,
    block_shape,
    blocks,
)
from gare_cache.heads.settings import require_count

PROJECTIONS = ("none", "linear")
MAX_SCALE = 100.0


class ResidualLinear(nn.Module):
    """x + W x + b with W and b zero at the start: the identity until it is trained."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        out: Tensor = inputs + self.linear(inputs)
        return out


class RetrievalHead(nn.Module):
    """Score texts against videos from encoded features; built by ``build_head``.

    Texts and frames pass their projection, frames the temporal aggregator; then the interaction
    scores every pair.

    Attributes:
        settings: JSON-able; ``build_head(**head.settings)`` rebuilds the head.
        logit_scale: log of the scale, a parameter.
    """

    def __init__(
        self,
        *,
        text_projection: nn.Module,
        frame_projection: nn.Module,
        aggregator: nn.Module,
        interaction: PooledInteraction,
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.text_projection = text_projection
        self.frame_projection = frame_projection
        self.aggregator = aggregator
        self.interaction = interaction
        self.settings = copy.deepcopy(dict(settings))
        self.logit_scale = nn.Parameter(torch.tensor(float(settings["logit_scale_init"])))

    @property
    def scale(self) -> Tensor:
        """1 / temperature = exp(logit_scale)."""
        return self.logit_scale.exp()

    @property
    def needs_words(self) -> bool:
        """Whether the scores depend on the word tokens of the texts."""
        return self.interaction.needs_words

    @property
    def side(self) -> str:
        """The side that the increment corrects, ``text`` or ``video``."""
        return self.interaction.side

    @torch.no_grad()
    def limit_scale(self) -> None:
        """Bring a scale above 100 back to 100; called after each update, as the reference does."""
        self.logit_scale.clamp_(max=math.log(MAX_SCALE))

    def encode_text(self, text: Tensor) -> Tensor:
        """Project sentence features (T, D) of any floating dtype to the head's dtype.

        Raises:
            ConfigError: the shape is not (T, D) with the head's D.
        """
        if text.dim() != 2 or text.shape[1] != self.settings["dim"]:
            raise ConfigError(self._shape_message("text", "(T, D)", text))
        projected: Tensor = self.text_projection(text.to(self.logit_scale.dtype))
        return projected

    def encode_words(self, words: Words | None) -> Words | None:
        """Project word tokens (T, W, D) as the sentence features; None where none are needed.

        Raises:
            ConfigError: the head needs word tokens and got none, or their shape does not fit.
        """
        if not self.needs_words:
            return None
        if words is None:
            raise ConfigError(
                "this head compares the word tokens of the texts, and none were given; set "
                "extract.word_tokens: true and run `gare-cache extract`"
            )
        tokens, mask = words
        if tokens.dim() != 3 or tokens.shape[2] != self.settings["dim"]:
            raise ConfigError(self._shape_message("word", "(T, W, D)", tokens))
        if mask.shape != tokens.shape[:2] or mask.dtype != torch.bool:
            raise ConfigError(
                f"the mask of the words is {mask.dtype} of shape {tuple(mask.shape)}; tokens of "
                f"shape {tuple(tokens.shape)} need torch.bool of shape {tuple(tokens.shape[:2])}"
            )
        return self.text_projection(tokens.to(self.logit_scale.dtype)), mask

    def encode_frames(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Project and aggregate frame features (V, F, D) of any floating dtype.

        Args:
            frames: (V, F, D).
            mask: (V, F) bool, True on real frames, which come first.

        Returns:
            (V, F, D) in the head's dtype.

        Raises:
            ConfigError: a shape or the mask's dtype does not fit.
        """
        self._check_frames(frames, mask)
        projected = self.frame_projection(frames.to(self.logit_scale.dtype))
        aggregated: Tensor = self.aggregator(projected, mask)
        return aggregated

    def forward(
        self, text: Tensor, frames: Tensor, mask: Tensor, words: Words | None = None
    ) -> PairScores:
        """Score all pairs densely and differentiably; dropout is active in training mode.

        Args:
            text: sentence features (T, D).
            frames: frame features (V, F, D).
            mask: (V, F) bool, True on real frames, which come first. The scores of a video
                without one are finite and mean nothing; its gradient is finite too.
            words: word tokens (T, W, D) of the texts and their mask (T, W), where ``needs_words``.

        Returns:
            Cosines (T, V) and, with a gap module, increments (T, V, D).
        """
        frames = self.encode_frames(frames, mask)
        scores: PairScores = self.interaction(
            self.encode_text(text), frames, mask, self.encode_words(words)
        )
        return scores

    def vectors(
        self, text: Tensor, frames: Tensor, mask: Tensor, words: Words | None = None
    ) -> PairVectors:
        """Return the vectors whose cosines ``forward`` gives; the arguments are the same."""
        frames = self.encode_frames(frames, mask)
        return self.interaction.vectors(
            self.encode_text(text), frames, mask, self.encode_words(words)
        )

    @torch.no_grad()
    def similarity(
        self,
        text: Tensor,
        frames: Tensor,
        mask: Tensor,
        words: Words | None = None,
        *,
        block_bytes: int = DEFAULT_BLOCK_BYTES,
    ) -> Tensor:
        """Score all pairs as at evaluation, in blocks and without a (T, V, D) tensor.

        Exact, not an approximation of ``forward`` (see ``gare_cache.heads.scoring``). Dropout is
        off whatever the module's mode, and no gradient is kept.

        Args:
            text: sentence features (T, D).
            frames: frame features (V, F, D).
            mask: (V, F) bool, True on real frames, which come first.
            words: word tokens (T, W, D) of the texts and their mask (T, W), where ``needs_words``.
            block_bytes: memory that one block may take beside inputs and result.

        Returns:
            Cosines (T, V).

        Raises:
            ConfigError: a video has no real frame, a shape does not fit, or ``block_bytes`` is
                not positive.
        """
        encoded = self.encode_text(text)
        encoded_words = self.encode_words(words)
        self._check_frames(frames, mask)
        empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ConfigError(
                f"{len(empty)} of {len(mask)} videos have no real frame (rows "
                f"{', '.join(map(str, empty[:5]))}) and so no score; leave them out first"
            )
        text_rows, video_rows = block_shape(
            frames.shape[1],
            frames.shape[2],
            gap_heads=0 if self.interaction.gap is None else self.interaction.gap.heads,
            element_bytes=encoded.element_size(),
            block_bytes=block_bytes,
        )
        scores = encoded.new_empty(len(text), len(frames))
        for columns in blocks(len(frames), video_rows):
            score = self.interaction.scorer(
                self.encode_frames(frames[columns], mask[columns]), mask[columns]
            )
            for rows in blocks(len(text), text_rows):
                row_words = None
                if encoded_words is not None:
                    row_words = (encoded_words[0][rows], encoded_words[1][rows])
                scores[rows, columns] = score(encoded[rows], row_words)
        return scores

    def _check_frames(self, frames: Tensor, mask: Tensor) -> None:
        if frames.dim() != 3 or frames.shape[2] != self.settings["dim"]:
            raise ConfigError(self._shape_message("frame", "(V, F, D)", frames))
        if mask.shape != frames.shape[:2] or mask.dtype != torch.bool:
            raise ConfigError(
                f"the mask is {mask.dtype} of shape {tuple(mask.shape)}; frames of shape "
                f"{tuple(frames.shape)} need torch.bool of shape {tuple(frames.shape[:2])}"
            )

    def _shape_message(self, what: str, expected: str, given: Tensor) -> str:
        return (
            f"{what} features have shape {tuple(given.shape)}, the head needs {expected} with "
            f"D = {self.settings['dim']}; give features of the encoder that the head was built for"
        )


def build_head(
    *,
    dim: int,
    max_frames: int,
    projection: str = "none",
    aggregator: Mapping[str, Any] | None = None,
    pooling: Mapping[str, Any] | None = None,
    gap: Mapping[str, Any] | None = None,
    reference_padding: bool = False,
    logit_scale_init: float = math.log(MAX_SCALE),
) -> RetrievalHead:
    """Build a head from plain values.

    Args:
        dim: width D of the features.
        max_frames: the most frames of a video.
        projection: ``none``, or ``linear``: one residual linear layer, zero at the start so that
            it begins as zero shot, on the sentence features and another on the frames. The
            project's own addition for frozen features; not part of GARE.
        aggregator: ``name`` (``mean``, ``lstm``, ``transformer``) and its settings; None for the
            transformer with 4 layers.
        pooling: ``name`` (``mean``, ``text_conditioned``) and its settings; None for
            text_conditioned at temperature 3.
        gap: ``heads``, ``dropout`` and ``init`` of the gap module; None for a head without one.
        reference_padding: count padded frames where GARE's reference code does: in the mean, in
            the gap module's attention and in the softmax of the pooling.
        logit_scale_init: log of the scale at the start.

    Returns:
        The head, in training mode, with random weights where it has any.

    Raises:
        ConfigError: a name or setting is unknown, out of range or without effect.
    """
    require_count("dim", dim)
    require_count("max_frames", max_frames)
    if projection not in PROJECTIONS:
        raise ConfigError(unknown_name("projection", str(projection), PROJECTIONS))
    if not math.isfinite(logit_scale_init):
        raise ConfigError(f"logit_scale_init is {logit_scale_init!r}; it must be finite")
    settings: dict[str, Any] = {
        "dim": dim,
        "max_frames": max_frames,
        "projection": projection,
        "aggregator": complete_aggregator_settings(aggregator or {}),
        "pooling": complete_pooling_settings(pooling or {}),
        "gap": None if gap is None else complete_gap_settings(gap),
        "reference_padding": reference_padding,
        "logit_scale_init": logit_scale_init,
    }
    if reference_padding and gap is None and settings["pooling"]["name"] == "text_conditioned":
        raise ConfigError(
            "reference_padding changes nothing in a head with text_conditioned pooling and no gap "
            "module (it only rescales the pooled video); set reference_padding: false"
        )
    project = ResidualLinear if projection == "linear" else _identity
    return RetrievalHead(
        text_projection=project(dim),
        frame_projection=project(dim),
        aggregator=build_aggregator(settings["aggregator"], dim=dim, max_frames=max_frames),
        interaction=PooledInteraction(
            build_pooling(settings["pooling"], reference_padding=reference_padding),
            None if gap is None else GapModule(dim, **settings["gap"]),
            reference_padding=reference_padding,
        ),
        settings=settings,
    )


def initialise_from_encoder(head: RetrievalHead, state: Mapping[str, Tensor]) -> None:
    """Start a head from its encoder: the logit scale, and a transformer aggregator's weights.

    The transformer aggregator takes the first text blocks and text positions of the CLIP (GARE's
    reference code) unless its ``init`` is ``random``.

    Args:
        head: changed in place.
        state: ``logit_scale`` (log), ``text.positional_embedding`` (context, D) and
            ``text.transformer.resblocks.{i}.*`` in CLIP's naming.

    Raises:
        ConfigError: a value that is needed is missing or of another shape.
    """
    if "logit_scale" not in state:
        raise ConfigError("the encoder's state has no 'logit_scale'; extract it again")
    if isinstance(head.aggregator, TransformerAggregator) and head.aggregator.init == "encoder":
        head.aggregator.load_encoder(state)
    with torch.no_grad():
        head.logit_scale.copy_(state["logit_scale"].reshape(()))
    head.limit_scale()


def _identity(dim: int) -> nn.Module:
    return nn.Identity()
