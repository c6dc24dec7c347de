"""Settings of the objective: a class for each term; no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gare_cache.settings import ByName, NamedSettings, NonNegative, Positive, Settings, Side


class InfoNceSettings(NamedSettings):
    """Symmetric InfoNCE."""

    name: Literal["info_nce"] = "info_nce"


class NclSettings(NamedSettings):
    """Normalised contrastive learning."""

    name: Literal["ncl"] = "ncl"
    iterations: Annotated[int, Field(ge=0)] = 4
    detach_biases: bool = False


# Name -> class of its settings; ``contrastive.CONTRASTIVE`` has the losses.
CONTRASTIVE: dict[str, type[NamedSettings]] = {
    "info_nce": InfoNceSettings,
    "ncl": NclSettings,
}
ContrastiveSettings = Annotated[
    NamedSettings, ByName("train.loss.contrastive", CONTRASTIVE, default="info_nce")
]


class RegulariserSettings(Settings):
    """Base of the regularisers' settings; a term of weight 0 is not computed."""

    weight: NonNegative


class BottleneckSettings(RegulariserSettings):
    """L_ib."""

    weight: NonNegative = 1e-4
    reduction: Literal["sum", "mean"] = "sum"
    anchor: Side = "video"
    prior_sigma: Positive = 1.0
    normalise: bool = False


class SpreadSettings(RegulariserSettings):
    """L_eps."""

    weight: NonNegative = 0.01
    bound: Positive = 0.5
    form: Literal["clamp", "smooth"] = "clamp"


class DirectionSettings(RegulariserSettings):
    """L_dir."""

    weight: NonNegative = 0.01
    alpha: Positive = 2.0


class OrthogonalitySettings(RegulariserSettings):
    """L_orth."""

    weight: NonNegative = 0.0


class TrustRegionSettings(RegulariserSettings):
    """L_tr; the radius is fixed, or where a learned one starts."""

    weight: NonNegative = 0.0
    radius: Positive = 1.0
    learned: bool = False

    @model_validator(mode="after")
    def _learned_with_a_weight(self) -> TrustRegionSettings:
        if self.learned and self.weight == 0:
            raise ValueError(
                "train.loss.trust_region.learned is true at weight 0, where nothing is learned; "
                "set train.loss.trust_region.weight, or learned: false"
            )
        return self


class LossSettings(Settings):
    """The objective."""

    contrastive: ContrastiveSettings = InfoNceSettings()
    false_negatives: Literal["keep", "mask"] = "keep"
    ib: BottleneckSettings = BottleneckSettings()
    eps: SpreadSettings = SpreadSettings()
    dir: DirectionSettings = DirectionSettings()
    orthogonality: OrthogonalitySettings = OrthogonalitySettings()
    trust_region: TrustRegionSettings = TrustRegionSettings()

    @property
    def regularisers(self) -> dict[str, RegulariserSettings]:
        """The settings of the regularisers, by name, in the order of the fields."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {n: value for n, value in values.items() if isinstance(value, RegulariserSettings)}

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the regularisers that have one, by name."""
        return {name: term.weight for name, term in self.regularisers.items() if term.weight != 0}
