"""Settings of a retrieval head; plain values, no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    model_validator,
)

from gare_cache.heads.combinations import (
    POOLED,
    TOKEN_WISE,
    needs_word_tokens,
    require_effect,
)
from gare_cache.settings import (
    Count,
    Fraction,
    Options,
    Positive,
    Settings,
    check_named_settings,
)

# Names -> the settings beside the name. A name with a colon is the import path of a class of the
# user's own, which takes ``options``.
AGGREGATORS = {"mean": (), "lstm": (), "transformer": ("layers", "init")}
INTERACTIONS: dict[str, tuple[str, ...]] = {POOLED: (), TOKEN_WISE: ()}
POOLINGS = {
    "mean": (),
    "text_conditioned": ("temperature",),
    "cross_attention": ("heads", "dropout"),
}


class AggregatorSettings(Settings):
    """Temporal aggregator; layers and init belong to the transformer, options to one's own."""

    name: str = "transformer"
    layers: Count | None = None
    init: Literal["encoder", "random"] | None = None
    options: Options | None = None

    @model_validator(mode="after")
    def _own_settings(self) -> AggregatorSettings:
        check_named_settings("head.aggregator", self, AGGREGATORS)
        return self


class InteractionSettings(Settings):
    """How a text and the frames of a video are compared; options belong to one's own class."""

    name: str = "pooled"
    options: Options | None = None

    @model_validator(mode="after")
    def _own_settings(self) -> InteractionSettings:
        check_named_settings("head.interaction", self, INTERACTIONS)
        return self


class PoolingSettings(Settings):
    """How frames become the scored video; each setting belongs to one pooling."""

    name: Literal["mean", "text_conditioned", "cross_attention"] = "text_conditioned"
    temperature: Positive | None = None
    heads: Count | None = None
    dropout: Fraction | None = None

    @model_validator(mode="after")
    def _own_settings(self) -> PoolingSettings:
        check_named_settings("head.pooling", self, POOLINGS)
        return self


class GapSettings(Settings):
    """GARE's gap module psi."""

    side: Literal["text", "video"] = "text"
    context: Literal["frames", "words"] = "frames"
    query: Literal["gap", "text"] = "gap"
    eta: Literal[1, -1] = 1
    layers: Count = 1
    heads: Count = 1
    dropout: Fraction = 0.3
    init: Literal["normal", "identity"] = "normal"


class HeadSettings(Settings):
    """The retrieval head; pooling, gap and reference_padding belong to the pooled interaction."""

    projection: Literal["none", "linear"] = "none"
    aggregator: AggregatorSettings = AggregatorSettings()
    interaction: InteractionSettings = InteractionSettings()
    pooling: PoolingSettings | None = PoolingSettings()
    gap: GapSettings | None = GapSettings()
    reference_padding: bool = False

    @model_validator(mode="after")
    def _no_idle_setting(self) -> HeadSettings:
        name = self.interaction.name
        if name == POOLED and self.pooling is None:
            raise ValueError(
                "head.pooling is null, but the interaction 'pooled' needs one; set "
                "head.pooling.name, or another head.interaction.name"
            )
        require_effect(
            projection=self.projection,
            aggregator=self.aggregator.name,
            interaction=name,
            pooling=None if self.pooling is None else self.pooling.model_dump(exclude_none=True),
            gap=self._gap(),
            reference_padding=self.reference_padding,
        )
        return self

    @property
    def needs_word_tokens(self) -> bool:
        """Whether a built-in head compares the word tokens of the captions."""
        return needs_word_tokens(self.interaction.name, self._gap())

    def _gap(self) -> dict[str, Any] | None:
        return None if self.gap is None else self.gap.model_dump()
