"""The training objective: one contrastive loss and GARE's weighted regularisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.losses.contrastive import CONTRASTIVE
from gare_cache.losses.increment import (
    REDUCTIONS,
    direction_diversity,
    information_bottleneck,
    norm_spread,
)

REGULARISERS: dict[str, Callable[..., Tensor]] = {
    "ib": information_bottleneck,
    "eps": norm_spread,
    "dir": direction_diversity,
}
IB_DEFAULTS: Mapping[str, Any] = MappingProxyType({"weight": 1e-4, "reduction": "sum"})
EPS_DEFAULTS: Mapping[str, Any] = MappingProxyType({"weight": 0.01, "bound": 0.5})
DIR_DEFAULTS: Mapping[str, Any] = MappingProxyType({"weight": 0.01, "alpha": 2.0})


@dataclass(frozen=True)
class LossTerms:
    """A loss and what it is made of.

    Attributes:
        total: the scalar to differentiate.
        terms: the unweighted terms by name (``contrastive``, ``ib``, ``eps``, ``dir``), detached,
            only those that were computed.
    """

    total: Tensor
    terms: dict[str, Tensor]


class Objective:
    """L = L_contrastive + ib.weight L_ib + eps.weight L_eps + dir.weight L_dir.

    Source: GARE, arXiv:2505.12499, App. F. A regulariser of weight 0 is not computed.

    Attributes:
        settings: JSON-able; ``Objective(**objective.settings)`` rebuilds it.
    """

    def __init__(
        self,
        contrastive: str = "info_nce",
        *,
        ib: Mapping[str, Any] = IB_DEFAULTS,
        eps: Mapping[str, Any] = EPS_DEFAULTS,
        dir: Mapping[str, Any] = DIR_DEFAULTS,
    ) -> None:
        """Check the settings; what a mapping leaves out has its default.

        Args:
            contrastive: a key of ``CONTRASTIVE``.
            ib: ``weight`` (beta) and ``reduction`` over dimensions, ``sum`` or ``mean``; weight
                1e-4 belongs to the sum (reference code), 0.07 to the mean (paper).
            eps: ``weight`` and ``bound`` (lambda, above 0).
            dir: ``weight`` and ``alpha`` (above 0).

        Raises:
            ConfigError: a name or setting is unknown or out of range.
        """
        if contrastive not in CONTRASTIVE:
            raise ConfigError(unknown_name("contrastive loss", contrastive, CONTRASTIVE))
        self._contrastive = CONTRASTIVE[contrastive]
        self._parameters = {
            "ib": _complete("ib", ib, IB_DEFAULTS),
            "eps": _complete("eps", eps, EPS_DEFAULTS),
            "dir": _complete("dir", dir, DIR_DEFAULTS),
        }
        _require_range("eps.bound", self._parameters["eps"]["bound"], above_zero=True)
        _require_range("dir.alpha", self._parameters["dir"]["alpha"], above_zero=True)
        reduction = self._parameters["ib"]["reduction"]
        if reduction not in REDUCTIONS:
            raise ConfigError(unknown_name("ib.reduction", str(reduction), REDUCTIONS))
        self.settings: dict[str, Any] = {"contrastive": contrastive}
        self.settings |= {name: dict(values) for name, values in self._parameters.items()}

    def __call__(
        self,
        similarity: Tensor,
        delta: Tensor | None,
        scale: Tensor | float,
        *,
        positives: Tensor | None = None,
    ) -> LossTerms:
        """Compute the loss of a batch of B matching pairs.

        Args:
            similarity: (B, B) cosines, rows are texts.
            delta: (B, B, D), None for a head without a gap module.
            scale: 1 / temperature.
            positives: (B, B) bool for the contrastive loss, see ``info_nce``.

        Returns:
            The total and its terms.

        Raises:
            ConfigError: a regulariser has a weight and there is no increment, or the batch is
                too small for its variance.
        """
        contrastive = self._contrastive(similarity, scale, positives=positives)
        terms = {"contrastive": contrastive.detach()}
        total = contrastive
        active = {name: p for name, p in self._parameters.items() if p["weight"] != 0}
        if active and delta is None:
            weights = " and ".join(f"{name}.weight: 0" for name in active)
            raise ConfigError(
                f"the regularisers {', '.join(active)} act on the increment of a gap module, and "
                f"this head has none; set {weights}, or give the head a gap module"
            )
        for name, parameters in active.items():
            options = {key: value for key, value in parameters.items() if key != "weight"}
            value = REGULARISERS[name](delta, **options)
            terms[name] = value.detach()
            total = total + parameters["weight"] * value
        return LossTerms(total, terms)


def _complete(term: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [key for key in given if key not in defaults]
    if unknown:
        known = ", ".join(sorted(defaults))
        raise ConfigError(f"unknown setting {unknown[0]!r} of {term}; known: {known}")
    complete = {**defaults, **given}
    _require_range(f"{term}.weight", complete["weight"], above_zero=False)
    return complete


def _require_range(what: str, value: Any, *, above_zero: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (above_zero and value == 0):
        allowed = "a finite number above 0" if above_zero else "a finite number, 0 or above"
        raise ConfigError(f"{what} is {value!r}; it must be {allowed}")
