"""The training objective: one contrastive loss and weighted regularisers of the increment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gare_cache.errors import ConfigError
from gare_cache.losses.contrastive import build_contrastive
from gare_cache.losses.increment import (
    direction_diversity,
    information_bottleneck,
    norm_spread,
    orthogonality,
    trust_region,
)
from gare_cache.losses.increments import Mixture
from gare_cache.losses.settings import LossSettings
from gare_cache.settings import arguments, parse_settings

REGULARISERS: dict[str, Callable[..., Tensor]] = {
    "ib": information_bottleneck,
    "eps": norm_spread,
    "dir": direction_diversity,
    "orthogonality": orthogonality,
    "trust_region": trust_region,
}
# Those whose pairs are taken at the item that the increment corrects.
ANCHORED = ("eps", "dir", "orthogonality")
# Settings that are the objective's, not arguments of the term.
_OF_OBJECTIVE = ("weight", "learned")


@dataclass(frozen=True)
class LossTerms:
    """A loss and its terms.

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
        settings: ``false_negatives`` among them, which decides the ``positives`` that the training
            gives.
        log_radius: log of a learned trust region's radius, the only parameter; None otherwise.
    """

    log_radius: nn.Parameter | None

    def __init__(self, settings: LossSettings | None = None, **values: Any) -> None:
        """Build the objective from its settings, or from the same as plain values.

        Args:
            settings: of all terms; None where ``values`` are given.
            values: of fields of ``LossSettings``, which has the defaults of all others:
                ``Objective(ib={"weight": 0.0})``.

        Raises:
            ConfigError: a name or setting is unknown or out of range, a user's loss cannot be
                imported, or both ``settings`` and ``values`` are given.
        """
        super().__init__()
        if settings is None:
            settings = parse_settings(LossSettings, values, section="train.loss")
        elif values:
            raise ConfigError(
                f"Objective is given settings and {next(iter(values))!r} beside them; make it part "
                "of the settings"
            )
        self.settings = settings
        self._contrastive = build_contrastive(settings.contrastive)
        region = settings.trust_region
        start = nn.Parameter(torch.tensor(math.log(region.radius)))
        self.register_parameter("log_radius", start if region.learned else None)

    @property
    def learned_radius(self) -> float | None:
        """The trust region's radius as learned so far; None where it is fixed."""
        return None if self.log_radius is None else float(self.log_radius.detach().exp())

    def forward(
        self,
        similarity: Tensor,
        delta: Tensor | Mixture | None,
        scale: Tensor | float,
        positives: Tensor | None = None,
        side: str = "text",
        weights: Mapping[str, Tensor] | None = None,
    ) -> LossTerms:
        """Compute the loss of a batch of B matching pairs.

        Args:
            similarity: (B, B) cosines, rows are texts.
            delta: (B, B, D) in any form, None for a head without a gap module.
            scale: 1 / temperature.
            positives: (B, B) bool, True where text i describes video j: pairs off the diagonal
                that the contrastive loss leaves out; None leaves out none.
            side: ``"text"`` or ``"video"``: which item Delta corrects.
            weights: scalars that replace the weights of the settings, by name of the regulariser;
                those named are computed, the others are not. None takes the settings.

        Returns:
            The total and its terms.

        Raises:
            ConfigError: a regulariser has a weight and there is no increment, or the batch is
                too small for its variance.
        """
        contrastive = self._contrastive(similarity, scale, positives=positives)
        terms = {"contrastive": contrastive.detach()}
        total = contrastive
        regularisers = self.settings.regularisers
        used: Mapping[str, Tensor | float] = (
            weights if weights is not None else self.settings.weights
        )
        active = {name: regularisers[name] for name in regularisers if name in used}
        if active and delta is None:
            zeros = " and ".join(f"{name}.weight: 0" for name in active)
            raise ConfigError(
                f"the regularisers {', '.join(active)} act on the increment of a gap module, and "
                f"this head has none; set {zeros}, or give the head a gap module (a head of your "
                "own returns gare_cache.PairScores with increments)"
            )
        for name, term in active.items():
            options = arguments(term, without=_OF_OBJECTIVE)
            if name in ANCHORED:
                options["side"] = side
            if name == "trust_region" and self.log_radius is not None:
                options["radius"] = self.log_radius.exp()
            value = REGULARISERS[name](delta, **options)
            terms[name] = value.detach()
            total = total + used[name] * value
        return LossTerms(total, terms)
