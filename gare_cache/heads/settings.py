"""Settings of a retrieval head: a class for each built-in part; no torch."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import model_validator

from gare_cache.settings import (
    ByName,
    Count,
    Fraction,
    NamedSettings,
    Positive,
    Settings,
    Side,
)

Context = Literal["frames", "words"]
Query = Literal["gap", "text"]
LinearInit = Literal["normal", "identity"]
Projection = Literal["none", "linear"]
SIDES: tuple[Side, ...] = get_args(Side)
CONTEXTS: tuple[Context, ...] = get_args(Context)
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)


class MeanAggregatorSettings(NamedSettings):
    """Frames as they are."""

    name: Literal["mean"] = "mean"


class LstmSettings(NamedSettings):
    """An LSTM over the frames."""

    name: Literal["lstm"] = "lstm"


class TransformerSettings(NamedSettings):
    """A transformer over the frames; ``heads: null`` is one for every 64 dimensions."""

    name: Literal["transformer"] = "transformer"
    layers: Count = 4
    heads: Count | None = None
    init: Literal["encoder", "random"] = "encoder"


class PooledSettings(NamedSettings):
    """The cosine of a text and a pooled video, one of them corrected by a gap module."""

    name: Literal["pooled"] = "pooled"


class TokenWiseSettings(NamedSettings):
    """Every word with its best frame, every frame with its best word."""

    name: Literal["token_wise"] = "token_wise"
    init: Literal["normal", "torch"] = "normal"


class MeanPoolingSettings(NamedSettings):
    """The mean frame; ``frame_norm`` scales every frame to length 1 before."""

    name: Literal["mean"] = "mean"
    frame_norm: bool = False


class TextConditionedSettings(NamedSettings):
    """Frames weighted by their product with the text."""

    name: Literal["text_conditioned"] = "text_conditioned"
    temperature: Positive = 3.0


class CrossAttentionSettings(NamedSettings):
    """The text attends over the frames."""

    name: Literal["cross_attention"] = "cross_attention"
    heads: Count = 1
    dropout: Fraction = 0.3


# Name -> class of its settings. The tables of the same names beside the modules build the parts.
AGGREGATORS: dict[str, type[NamedSettings]] = {
    "mean": MeanAggregatorSettings,
    "lstm": LstmSettings,
    "transformer": TransformerSettings,
}
INTERACTIONS: dict[str, type[NamedSettings]] = {
    "pooled": PooledSettings,
    "token_wise": TokenWiseSettings,
}
POOLINGS: dict[str, type[NamedSettings]] = {
    "mean": MeanPoolingSettings,
    "text_conditioned": TextConditionedSettings,
    "cross_attention": CrossAttentionSettings,
}
# Interactions that read the word tokens of the captions.
_COMPARING_WORDS: tuple[type[NamedSettings], ...] = (TokenWiseSettings,)
AggregatorSettings = Annotated[
    NamedSettings, ByName("head.aggregator", AGGREGATORS, default="transformer")
]
InteractionSettings = Annotated[
    NamedSettings, ByName("head.interaction", INTERACTIONS, default="pooled")
]
PoolingSettings = Annotated[
    NamedSettings,
    ByName("head.pooling", POOLINGS, default="text_conditioned", custom=False),
]


class GapSettings(Settings):
    """GARE's gap module psi."""

    side: Side = "text"
    context: Context = "frames"
    query: Query = "gap"
    eta: Literal[1, -1] = 1
    layers: Count = 1
    heads: Count = 1
    dropout: Fraction = 0.3
    init: LinearInit = "normal"

    @model_validator(mode="after")
    def _sign_of_a_gap(self) -> GapSettings:
        if self.query == "text" and self.eta == -1:
            raise ValueError(
                "head.gap.eta is the sign of the gap, and with head.gap.query: text there is none; "
                "set head.gap.eta: 1, or head.gap.query: gap"
            )
        return self

    @property
    def same_for_all_videos(self) -> bool:
        """Whether the increment depends on the text alone: query and context are both text."""
        return self.context == "words" and self.query == "text"


class HeadSettings(Settings):
    """The retrieval head; pooling, gap and reference_padding belong to the pooled interaction."""

    projection: Projection = "none"
    aggregator: AggregatorSettings = TransformerSettings()
    interaction: InteractionSettings = PooledSettings()
    pooling: PoolingSettings | None = TextConditionedSettings()
    gap: GapSettings | None = GapSettings()
    reference_padding: bool = False

    @model_validator(mode="after")
    def _every_setting_has_an_effect(self) -> HeadSettings:
        if not isinstance(self.interaction, PooledSettings):
            self._refuse_settings_of_pooled()
        elif self.pooling is None:
            raise ValueError(
                "head.pooling is null, but the interaction 'pooled' needs one; set "
                "head.pooling.name, or another head.interaction.name"
            )
        elif self.reference_padding and not self._padding_matters():
            raise ValueError(
                "head.reference_padding changes nothing in this head: padded frames are not "
                "attended to by psi, move no mean in another direction, and the length of the "
                "pooled video does not matter; set head.reference_padding: false"
            )
        return self

    @property
    def needs_word_tokens(self) -> bool:
        """Whether a built-in head compares the word tokens of the captions."""
        if isinstance(self.interaction, _COMPARING_WORDS):
            return True
        return self.gap is not None and self.gap.context == "words"

    def _refuse_settings_of_pooled(self) -> None:
        for what, given, idle in (
            ("pooling", self.pooling is not None, "null"),
            ("gap", self.gap is not None, "null"),
            ("reference_padding", self.reference_padding, "false"),
        ):
            if given:
                raise ValueError(
                    f"head.{what} belongs to the interaction 'pooled' and changes nothing with "
                    f"{self.interaction.name!r}; set head.{what}: {idle}"
                )

    def _padding_matters(self) -> bool:
        """Say whether counting padded frames changes a score."""
        gap = self.gap
        if gap is not None:
            if gap.context == "frames" or gap.query == "gap":
                return True
            if gap.side == "video" and not isinstance(self.pooling, CrossAttentionSettings):
                return True
        # The mean moves where padded frames, zero in the cache, are no longer zero.
        keeps_zero = isinstance(self.aggregator, MeanAggregatorSettings | LstmSettings)
        moved = self.projection != "none" or not keeps_zero
        return isinstance(self.pooling, MeanPoolingSettings) and moved
