"""The training objective: one contrastive loss and weighted regularisers of the increment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.losses.contrastive import build_contrastive, complete_contrastive_settings
from gare_cache.losses.increment import (
    FORMS,
    REDUCTIONS,
    SIDES,
    direction_diversity,
    information_bottleneck,
    norm_spread,
    orthogonality,
    trust_region,
)
from gare_cache.plain_settings import require_bool, require_number, with_defaults

REGULARISERS: dict[str, Callable[..., Tensor]] = {
    "ib": information_bottleneck,
    "eps": norm_spread,
    "dir": direction_diversity,
    "orthogonality": orthogonality,
    "trust_region": trust_region,
}
# Those whose pairs are taken at the item that the increment corrects.
ANCHORED = ("eps", "dir", "orthogonality")
_NO_ARGUMENTS = ("weight", "learned")
CONTRASTIVE_DEFAULT: Mapping[str, Any] = MappingProxyType({"name": "info_nce"})
IB_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "weight": 1e-4,
        "reduction": "sum",
        "anchor": "video",
        "prior_sigma": 1.0,
        "normalise": False,
    }
)
EPS_DEFAULTS: Mapping[str, Any] = MappingProxyType({"weight": 0.01, "bound": 0.5, "form": "clamp"})
DIR_DEFAULTS: Mapping[str, Any] = MappingProxyType({"weight": 0.01, "alpha": 2.0})
ORTHOGONALITY_DEFAULTS: Mapping[str, Any] = MappingProxyType({"weight": 0.0})
TRUST_REGION_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"weight": 0.0, "radius": 1.0, "learned": False}
)


@dataclass(frozen=True)
class LossTerms:
    """A loss and what it is made of.

    Attributes:
        total: the scalar to differentiate.
        terms: the unweighted terms by name (``contrastive`` and keys of ``REGULARISERS``),
            detached, only those that were computed.
    """

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    """L = L_contrastive + the sum of weight L over the regularisers.

    Source: GARE, arXiv:2505.12499, App. F, its ablations and its version 1; NCL, arXiv:2212.11790.
    A regulariser of weight 0 is not computed.

    Attributes:
        settings: JSON-able; ``Objective(**objective.settings)`` rebuilds it.
        log_radius: log of a learned trust region's radius, the only parameter; None otherwise.
    """

    log_radius: nn.Parameter | None

    def __init__(
        self,
        contrastive: Mapping[str, Any] = CONTRASTIVE_DEFAULT,
        *,
        ib: Mapping[str, Any] = IB_DEFAULTS,
        eps: Mapping[str, Any] = EPS_DEFAULTS,
        dir: Mapping[str, Any] = DIR_DEFAULTS,
        orthogonality: Mapping[str, Any] = ORTHOGONALITY_DEFAULTS,
        trust_region: Mapping[str, Any] = TRUST_REGION_DEFAULTS,
    ) -> None:
        """Check the settings; what a mapping leaves out has its default.

        Args:
            contrastive: ``name`` and the settings of that loss, see ``build_contrastive``.
            ib: ``weight`` (beta), ``reduction`` over dimensions, ``sum`` or ``mean`` (weight 1e-4
                belongs to the sum (reference code), 0.07 to the mean (paper)), ``anchor``
                (``video`` or ``text``), ``prior_sigma`` (above 0), ``normalise``.
            eps: ``weight``, ``bound`` (lambda, above 0) and ``form``, ``clamp`` or ``smooth``.
            dir: ``weight`` and ``alpha`` (above 0).
            orthogonality: ``weight``.
            trust_region: ``weight``, ``radius`` (above 0) and ``learned``: the radius is where a
                parameter starts; it needs a weight.

        Raises:
            ConfigError: a name or setting is unknown or out of range, or the radius is learned at
                weight 0.
        """
        super().__init__()
        self._regularisers = {
            "ib": with_defaults("ib", ib, IB_DEFAULTS),
            "eps": with_defaults("eps", eps, EPS_DEFAULTS),
            "dir": with_defaults("dir", dir, DIR_DEFAULTS),
            "orthogonality": with_defaults("orthogonality", orthogonality, ORTHOGONALITY_DEFAULTS),
            "trust_region": with_defaults("trust_region", trust_region, TRUST_REGION_DEFAULTS),
        }
        _check(self._regularisers)
        self.settings: dict[str, Any] = {"contrastive": complete_contrastive_settings(contrastive)}
        self.settings |= {name: dict(values) for name, values in self._regularisers.items()}
        self._contrastive = build_contrastive(contrastive)
        region = self._regularisers["trust_region"]
        start = nn.Parameter(torch.tensor(math.log(region["radius"])))
        self.register_parameter("log_radius", start if region["learned"] else None)

    @property
    def learned_radius(self) -> float | None:
        """The trust region's radius as learned so far; None where it is fixed."""
        return None if self.log_radius is None else float(self.log_radius.detach().exp())

    def forward(
        self,
        similarity: Tensor,
        delta: Tensor | None,
        scale: Tensor | float,
        positives: Tensor | None = None,
        side: str = "text",
    ) -> LossTerms:
        """Compute the loss of a batch of B matching pairs.

        Args:
            similarity: (B, B) cosines, rows are texts.
            delta: (B, B, D), None for a head without a gap module.
            scale: 1 / temperature.
            positives: (B, B) bool, True where text i describes video j: pairs off the diagonal
                that the contrastive loss leaves out; None leaves out none.
            side: ``"text"`` or ``"video"``: which item Delta corrects.

        Returns:
            The total and its terms.

        Raises:
            ConfigError: a regulariser has a weight and there is no increment, or the batch is
                too small for its variance.
        """
        contrastive = self._contrastive(similarity, scale, positives=positives)
        terms = {"contrastive": contrastive.detach()}
        total = contrastive
        active = {name: p for name, p in self._regularisers.items() if p["weight"] != 0}
        if active and delta is None:
            weights = " and ".join(f"{name}.weight: 0" for name in active)
            raise ConfigError(
                f"the regularisers {', '.join(active)} act on the increment of a gap module, and "
                f"this head has none; set {weights}, or give the head a gap module (a head of your "
                "own returns gare_cache.PairScores with increments)"
            )
        for name, parameters in active.items():
            options = {key: value for key, value in parameters.items() if key not in _NO_ARGUMENTS}
            if name in ANCHORED:
                options["side"] = side
            if name == "trust_region" and self.log_radius is not None:
                options["radius"] = self.log_radius.exp()
            value = REGULARISERS[name](delta, **options)
            terms[name] = value.detach()
            total = total + parameters["weight"] * value
        return LossTerms(total, terms)


def _check(settings: Mapping[str, Mapping[str, Any]]) -> None:
    for name, values in settings.items():
        require_number(f"{name}.weight", values["weight"], above_zero=False)
    for name, key in (
        ("ib", "prior_sigma"),
        ("eps", "bound"),
        ("dir", "alpha"),
        ("trust_region", "radius"),
    ):
        require_number(f"{name}.{key}", settings[name][key], above_zero=True)
    for name, key, known in (
        ("ib", "reduction", REDUCTIONS),
        ("ib", "anchor", SIDES),
        ("eps", "form", FORMS),
    ):
        if settings[name][key] not in known:
            raise ConfigError(unknown_name(f"{name}.{key}", str(settings[name][key]), known))
    require_bool("ib.normalise", settings["ib"]["normalise"])
    require_bool("trust_region.learned", settings["trust_region"]["learned"])
    if settings["trust_region"]["learned"] and settings["trust_region"]["weight"] == 0:
        raise ConfigError(
            "trust_region.learned is true at trust_region.weight 0, where nothing is learned; set "
            "the weight, or learned: false"
        )
