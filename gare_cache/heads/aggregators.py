"""Temporal aggregators: mix each frame's features with those of the other frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from gare_cache.encoders.residual_block import ResidualBlock
from gare_cache.errors import ConfigError
from gare_cache.heads.custom_aggregator import build_custom_aggregator
from gare_cache.heads.settings import LstmSettings, MeanAggregatorSettings, TransformerSettings
from gare_cache.settings import CustomSettings, NamedSettings

_PADDING_BIAS = -1e6
_NORM_EPS = 1e-12


class MeanAggregator(nn.Module):
    """Return the frames as they are; the pooling that follows does the averaging."""

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return ``frames`` (V, F, D) unchanged."""
        return frames


class LstmAggregator(nn.Module):
    """Add a one-layer unidirectional LSTM's output to the frames.

    out = f + m * LSTM(f). Source: the reference code of GARE, arXiv:2505.12499. The reference
    packs the sequences by length; a unidirectional LSTM gives the same values on a prefix of real
    frames without packing, and its output is set to 0 on padding.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, batch_first=True)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Aggregate.

        Args:
            frames: (V, F, D).
            mask: (V, F) bool, True on real frames, which come first in every row.

        Returns:
            (V, F, D).
        """
        hidden: Tensor = self.lstm(frames)[0]
        return frames + hidden.masked_fill(~mask[..., None], 0.0)


class TransformerAggregator(nn.Module):
    """Add a small transformer's output to the frames.

    out = f + blocks(f + position), pre-LN blocks of CLIP's kind (QuickGELU, LayerNorm eps 1e-12),
    an additive -1e6 on padded keys. Source: the reference code of GARE, arXiv:2505.12499.
    Weights start as there: N(0, 0.02) with biases 0, but the joint projection of query, key and
    value, a parameter of its own, by Glorot's uniform rule. With ``init: encoder`` they are meant
    to be replaced by the first text blocks and positions of the encoder
    (``initialise_from_encoder``).
    """

    def __init__(self, settings: TransformerSettings, *, dim: int, max_frames: int) -> None:
        """Build the blocks.

        Args:
            settings: ``layers``: number of blocks; ``heads``: attention heads, None for D // 64,
                at least 1; ``init``: what ``initialise_from_encoder`` does.
            dim: width D.
            max_frames: number of positions; more frames than that are an error.

        Raises:
            ConfigError: the heads do not divide the width.
        """
        super().__init__()
        self.heads = max(1, dim // 64) if settings.heads is None else settings.heads
        if dim % self.heads:
            raise ConfigError(
                f"the transformer aggregator cannot split dim = {dim} into {self.heads} heads; "
                "set head.aggregator.heads to a divisor of dim"
            )
        self.init = settings.init
        self.positional_embedding = nn.Parameter(torch.empty(max_frames, dim))
        self.resblocks = nn.ModuleList(
            ResidualBlock(dim, self.heads, eps=_NORM_EPS) for _ in range(settings.layers)
        )
        for name, parameter in self.named_parameters():
            if name.endswith("in_proj_weight"):
                nn.init.xavier_uniform_(parameter)
            elif parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Aggregate.

        Args:
            frames: (V, F, D), F at most ``max_frames``.
            mask: (V, F) bool, True on real frames.

        Returns:
            (V, F, D).

        Raises:
            ConfigError: there are more frames than positions.
        """
        num_frames, max_frames = frames.shape[1], self.positional_embedding.shape[0]
        if num_frames > max_frames:
            raise ConfigError(
                f"the videos have {num_frames} frame slots, but the transformer aggregator was "
                f"built with max_frames = {max_frames}; build it with max_frames >= {num_frames}"
            )
        padding_bias = max(_PADDING_BIAS, torch.finfo(frames.dtype).min)
        key_bias = torch.zeros_like(mask, dtype=frames.dtype).masked_fill(~mask, padding_bias)
        key_bias = key_bias[:, None, None, :]  # (V, 1, 1, F)
        hidden = frames + self.positional_embedding[:num_frames]
        for block in self.resblocks:
            hidden = block(hidden, key_bias)
        return frames + hidden

    def load_encoder(self, state: Mapping[str, Tensor]) -> None:
        """Start from the text tower of a CLIP.

        Args:
            state: ``text.positional_embedding`` (context, D) and
                ``text.transformer.resblocks.{i}.*`` in CLIP's naming, i below the number of layers.

        Raises:
            ConfigError: a block or the positions are missing or of another shape.
        """
        prefix = "text.transformer.resblocks."
        weights = self.state_dict()
        for name, target in weights.items():
            key = re.sub(r"^resblocks\.", prefix, name)
            key = "text.positional_embedding" if name == "positional_embedding" else key
            source = state.get(key)
            if source is None:
                raise ConfigError(
                    f"the encoder has no {key!r} to start the transformer aggregator from; "
                    "use fewer head.aggregator.layers or set head.aggregator.init: random"
                )
            if name == "positional_embedding":
                source = source[: target.shape[0]]
            if source.shape != target.shape:
                raise ConfigError(
                    f"the encoder's {key!r} has shape {tuple(source.shape)}, the transformer "
                    f"aggregator needs {tuple(target.shape)}; set head.aggregator.init: random"
                )
            weights[name] = source
        self.load_state_dict(weights)


def _mean(settings: MeanAggregatorSettings, *, dim: int, max_frames: int) -> nn.Module:
    return MeanAggregator()


def _lstm(settings: LstmSettings, *, dim: int, max_frames: int) -> nn.Module:
    return LstmAggregator(dim)


# Name -> what builds it; ``settings.AGGREGATORS`` has the settings.
AGGREGATORS: dict[str, Callable[..., nn.Module]] = {
    "mean": _mean,
    "lstm": _lstm,
    "transformer": TransformerAggregator,
}


def build_aggregator(settings: NamedSettings, *, dim: int, max_frames: int) -> nn.Module:
    """Build an aggregator.

    Args:
        settings: of a built-in one, or of a class of the user's own.
        dim: width D of the frames.
        max_frames: the most frames of a video.

    Returns:
        A module (frames (V, F, D), mask (V, F)) -> (V, F, D).

    Raises:
        ConfigError: the settings do not fit the width, or the user's class cannot be built.
    """
    if isinstance(settings, CustomSettings):
        return build_custom_aggregator(settings, dim=dim, max_frames=max_frames)
    return AGGREGATORS[settings.name](settings, dim=dim, max_frames=max_frames)
