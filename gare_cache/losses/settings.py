"""Settings of the objective; plain values, no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from gare_cache.settings import (
    NonNegative,
    Options,
    Positive,
    Settings,
    check_named_settings,
)

CONTRASTIVE = {"info_nce": (), "ncl": ("iterations", "detach_biases")}
REGULARISERS = ("ib", "eps", "dir", "orthogonality", "trust_region")


class ContrastiveSettings(Settings):
    """The contrastive loss; iterations and detach_biases belong to ncl, options to one's own."""

    name: str = "info_nce"
    iterations: Annotated[int, Field(ge=0)] | None = None
    detach_biases: bool | None = None
    options: Options | None = None

    @model_validator(mode="after")
    def _own_settings(self) -> ContrastiveSettings:
        check_named_settings("train.loss.contrastive", self, CONTRASTIVE)
        return self


class BottleneckSettings(Settings):
    """L_ib."""

    weight: NonNegative = 1e-4
    reduction: Literal["sum", "mean"] = "sum"
    anchor: Literal["video", "text"] = "video"
    prior_sigma: Positive = 1.0
    normalise: bool = False


class SpreadSettings(Settings):
    """L_eps."""

    weight: NonNegative = 0.01
    bound: Positive = 0.5
    form: Literal["clamp", "smooth"] = "clamp"


class DirectionSettings(Settings):
    """L_dir."""

    weight: NonNegative = 0.01
    alpha: Positive = 2.0


class OrthogonalitySettings(Settings):
    """L_orth."""

    weight: NonNegative = 0.0


class TrustRegionSettings(Settings):
    """L_tr; the radius is fixed, or where a learned one starts."""

    weight: NonNegative = 0.0
    radius: Positive = 1.0
    learned: bool = False


class LossSettings(Settings):
    """The objective."""

    contrastive: ContrastiveSettings = ContrastiveSettings()
    false_negatives: Literal["keep", "mask"] = "keep"
    ib: BottleneckSettings = BottleneckSettings()
    eps: SpreadSettings = SpreadSettings()
    dir: DirectionSettings = DirectionSettings()
    orthogonality: OrthogonalitySettings = OrthogonalitySettings()
    trust_region: TrustRegionSettings = TrustRegionSettings()
