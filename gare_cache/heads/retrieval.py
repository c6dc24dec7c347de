"""The retrieval head: projection, temporal aggregator, interaction and logit scale."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import FiniteFloat
from torch import Tensor, nn

from gare_cache.errors import ConfigError
from gare_cache.heads.aggregators import MeanAggregator, TransformerAggregator, build_aggregator
from gare_cache.heads.dense import DenseScorer
from gare_cache.heads.interactions import build_interaction
from gare_cache.heads.pairs import PairScores, PairVectors, Words
from gare_cache.heads.pooled import ExactScorer, PooledInteraction
from gare_cache.heads.pooling import MeanPooling
from gare_cache.heads.scoring import (
    DEFAULT_BLOCK_BYTES,
    Scorer,
    block_shape,
    blocks,
    evaluating,
)
from gare_cache.heads.settings import HeadSettings
from gare_cache.settings import Count, Settings, parse_settings

MAX_SCALE = 100.0


class _Start(Settings):
    """Shape of the data that a head is built for, and its initial scale; not in params.yaml."""

    dim: Count
    max_frames: Count
    logit_scale_init: FiniteFloat


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
        encodes_in_bfloat16: whether ``pair_scores`` encodes in bfloat16, see there; off when built.
    """

    def __init__(
        self,
        *,
        text_projection: nn.Module,
        frame_projection: nn.Module,
        aggregator: nn.Module,
        interaction: nn.Module,
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.text_projection = text_projection
        self.frame_projection = frame_projection
        self.aggregator = aggregator
        self.interaction = interaction
        self.settings = copy.deepcopy(dict(settings))
        self.logit_scale = nn.Parameter(torch.tensor(float(settings["logit_scale_init"])))
        self.encodes_in_bfloat16 = False

    @property
    def scale(self) -> Tensor:
        """1 / temperature = exp(logit_scale)."""
        return self.logit_scale.exp()

    @property
    def needs_words(self) -> bool:
        """Whether the scores depend on the word tokens of the texts."""
        return bool(self.interaction.needs_words)

    @property
    def side(self) -> str:
        """The side that the increment corrects, ``text`` or ``video``; ``text`` without one."""
        return str(self.interaction.side)

    @property
    def exact(self) -> bool:
        """Whether ``similarity`` has an exact form without the pair tensor; else it is dense."""
        return self._exact_scorer() is not None

    @property
    def compares_vectors(self) -> bool:
        """Whether the score is the cosine of two vectors, which ``vectors`` returns."""
        return isinstance(self.interaction, PooledInteraction)

    @property
    def encodes_frames(self) -> bool:
        """Whether ``encode_frames`` changes the frames at all."""
        parts = self.frame_projection, self.aggregator
        return not isinstance(parts[0], nn.Identity) or not isinstance(parts[1], MeanAggregator)

    def texts_per_video(self, num_frames: int) -> float:
        """Return the number of texts whose scores take as long as preparing a video for any.

        From as many on, ``similarity`` prepares each video once; infinite where it never does.
        """
        exact = self._exact_scorer()
        return math.inf if exact is None else exact.texts_per_video(num_frames)

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
        tokens, mask = self._checked_words(words)
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

    @torch.no_grad()
    def video_vectors(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return one vector a video (V, D), the same for every text: the mean aggregated frame.

        Its cosine with ``encode_text`` is the score where the head pools by the mean and has no gap
        module; for other heads it is near the score, which is enough for a shortlist. Frames have
        length 1 in the mean unless the head itself averages them as they are.

        Args:
            frames: (V, F, D).
            mask: (V, F) bool, True on real frames, which come first.

        Raises:
            ConfigError: a shape does not fit.
        """
        with evaluating(self):
            return self.pooled_vectors(self.encode_frames(frames, mask), mask)

    def pooled_vectors(self, encoded: Tensor, mask: Tensor) -> Tensor:
        """Return ``video_vectors`` (V, D) of encoded frames (V, F, D) with their mask (V, F)."""
        own = getattr(self.interaction, "pooling", None)
        pooling = own if isinstance(own, MeanPooling) else MeanPooling(frame_norm=True)
        return pooling.slots(encoded, mask)[0][:, 0]

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

        Raises:
            ConfigError: a shape does not fit, of the inputs or of what a user's module returns.
        """
        frames = self.encode_frames(frames, mask)
        scores: PairScores = self.interaction(
            self.encode_text(text), frames, mask, self.encode_words(words)
        )
        return scores

    def pair_scores(
        self,
        text: Tensor,
        frames: Tensor,
        mask: Tensor,
        words: Words | None = None,
        *,
        rescore: bool = True,
    ) -> PairScores:
        """Score all pairs as ``forward`` does, differentiably and at the least cost: for training.

        Where ``exact``, no (T, V, D) tensor is made at dropout 0, and the increments are mixtures;
        with dropout, only what follows it works on the pair tensor. With ``encodes_in_bfloat16``
        the products of projections and aggregator are taken in bfloat16 (autocast) and all that
        follows in the head's dtype: the algebra of the pairs subtracts numbers of like size, of
        which bfloat16 would leave nothing. The arguments and errors are those of ``forward``;
        ``rescore`` is that of ``PooledInteraction.pair_scores``.
        """
        dtype = self.logit_scale.dtype
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=self.encodes_in_bfloat16):
            frames = self.encode_frames(frames, mask).to(dtype)
            text = self.encode_text(text).to(dtype)
            encoded_words = self.encode_words(words)
        if encoded_words is not None:
            encoded_words = encoded_words[0].to(dtype), encoded_words[1]
        inputs = (text, frames, mask, encoded_words)
        if isinstance(self.interaction, PooledInteraction):
            return self.interaction.pair_scores(*inputs, rescore=rescore)
        scores: PairScores = self.interaction(*inputs)
        return scores

    def vectors(
        self, text: Tensor, frames: Tensor, mask: Tensor, words: Words | None = None
    ) -> PairVectors:
        """Return the vectors whose cosines ``forward`` gives; the arguments are the same.

        Raises:
            ConfigError: the interaction compares no two vectors (see ``compares_vectors``).
        """
        if not isinstance(self.interaction, PooledInteraction):
            raise ConfigError(
                f"the interaction {self.settings['interaction']['name']!r} does not pool a video "
                "to one vector; there are vectors with head.interaction.name: pooled alone"
            )
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
        encoded: bool = False,
        block_bytes: int = DEFAULT_BLOCK_BYTES,
    ) -> Tensor:
        """Score all pairs as at evaluation, in blocks.

        Where ``exact``, without a (T, V, D) tensor: the same score, not an approximation of
        ``forward`` (see ``gare_cache.heads.increment_basis``). Else, and for fewer texts than
        ``texts_per_video``, with ``forward`` on blocks. Dropout is off whatever the module's mode,
        and no gradient is kept.

        Args:
            text: sentence features (T, D).
            frames: frame features (V, F, D).
            mask: (V, F) bool, True on real frames, which come first.
            words: word tokens (T, W, D) of the texts and their mask (T, W), where ``needs_words``.
            encoded: whether ``encode_frames`` has been called on the frames already.
            block_bytes: memory that one block may take beside inputs and result.

        Returns:
            Cosines (T, V).

        Raises:
            ConfigError: a video has no real frame, a shape does not fit, or ``block_bytes`` is
                not positive.
        """
        with evaluating(self):
            encode = _as_it_is if encoded else self.encode_frames
            return self._similarity(text, frames, mask, words, encode, block_bytes)

    def _similarity(
        self,
        text: Tensor,
        frames: Tensor,
        mask: Tensor,
        words: Words | None,
        encode: Callable[[Tensor, Tensor], Tensor],
        block_bytes: int,
    ) -> Tensor:
        encoded = self.encode_text(text)
        checked = self._checked_words(words) if self.needs_words else None
        self._check_frames(frames, mask)
        empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ConfigError(
                f"{len(empty)} of {len(mask)} videos have no real frame (rows "
                f"{', '.join(map(str, empty[:5]))}) and so no score; leave them out first"
            )
        scorer = self._scorer(len(text), frames.shape[1])
        num_words = 0 if checked is None else checked[0].shape[1]
        shape = block_shape(
            scorer.footprint(frames.shape[1], num_words, frames.shape[2]),
            element_bytes=encoded.element_size(),
            block_bytes=block_bytes,
        )
        scores = encoded.new_empty(len(text), len(frames))
        for kept in blocks(len(frames), shape.kept):
            parts = [
                slice(kept.start + part.start, kept.start + part.stop)
                for part in blocks(kept.stop - kept.start, shape.videos)
            ]
            videos = [scorer.videos(encode(frames[part], mask[part]), mask[part]) for part in parts]
            for rows in blocks(len(text), shape.texts):
                block_words = None if checked is None else (checked[0][rows], checked[1][rows])
                texts = scorer.texts(encoded[rows], self.encode_words(block_words))
                for part, prepared in zip(parts, videos, strict=True):
                    scores[rows, part] = scorer.score(texts, prepared)
        return scores

    def _scorer(self, num_texts: int, num_frames: int) -> Scorer:
        exact = self._exact_scorer()
        if exact is None or num_texts < exact.texts_per_video(num_frames):
            return DenseScorer(self.interaction)
        return exact

    def _exact_scorer(self) -> ExactScorer | None:
        pooled = self.interaction
        return pooled.exact_scorer() if isinstance(pooled, PooledInteraction) else None

    def _checked_words(self, words: Words | None) -> Words:
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
        return words

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
    settings: HeadSettings | None = None,
    *,
    dim: int,
    max_frames: int,
    logit_scale_init: float = math.log(MAX_SCALE),
    **values: Any,
) -> RetrievalHead:
    """Build a head from its settings, or from the same as plain values.

    ``build_head(dim=512, max_frames=12, pooling={"name": "mean"}, gap=None)`` is short for
    ``HeadSettings`` of these values, which has the defaults of all others.

    Args:
        settings: of the head; None where ``values`` are given.
        dim: width D of the features.
        max_frames: the most frames of a video.
        logit_scale_init: log of the scale at the start.
        values: of fields of ``HeadSettings``.

    Returns:
        The head, in training mode, with random weights where it has any.

    Raises:
        ConfigError: a name or setting is unknown, out of range or without effect, or both
            ``settings`` and ``values`` are given.
    """
    size = {"dim": dim, "max_frames": max_frames}
    start = parse_settings(_Start, {**size, "logit_scale_init": logit_scale_init})
    if settings is None:
        settings = parse_settings(HeadSettings, values, section="head")
    elif values:
        raise ConfigError(
            f"build_head is given settings and {next(iter(values))!r} beside them; make it part of "
            "the settings"
        )
    project = ResidualLinear if settings.projection == "linear" else _identity
    return RetrievalHead(
        text_projection=project(dim),
        frame_projection=project(dim),
        aggregator=build_aggregator(settings.aggregator, dim=dim, max_frames=max_frames),
        interaction=build_interaction(settings, dim=dim, max_frames=max_frames),
        settings={**start.model_dump(), **settings.model_dump()},
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


def _as_it_is(frames: Tensor, mask: Tensor) -> Tensor:
    return frames


def _identity(dim: int) -> nn.Module:
    return nn.Identity()
