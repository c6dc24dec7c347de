"""Custom test-time normalisers, given by import path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gare_cache.errors import ConfigError
from gare_cache.evaluation.metrics import Scores
from gare_cache.own import call_own, import_own, require_signature

KINDS = ("inductive", "transductive")
BANKS = ("queries", "gallery")


@dataclass(frozen=True)
class CustomNormaliser:
    """A custom normaliser, called as ``my_normaliser(scores, **parameters)``.

    Attributes:
        name: import path.
        function: the user's function.
        kinds: its attribute ``kinds``; inductive by default.
        banks: its attribute ``banks``, which banks it uses if inductive; by default the bank of
            training queries.
        parameters: default of each parameter, from the signature.
    """

    name: str
    function: Callable[..., Any]
    kinds: Sequence[str]
    banks: Sequence[str]
    parameters: Mapping[str, Any]

    def __call__(self, scores: Any, **parameters: Any) -> Scores:
        """Correct the scores of one direction.

        Args:
            scores: anything with ``logits`` (Q, G), as passed to the built-in normalisers.
            parameters: by name.

        Raises:
            ConfigError: a parameter is unknown, the function raises an error, the result is not a
                finite array of the logits' shape, or the logits were changed in place.
        """
        require_signature(
            self.function,
            self.name,
            what="normaliser",
            arguments=("scores",),
            options=parameters,
        )
        logits = scores.logits
        before = logits.copy()
        corrected = call_own(self.function, f"normaliser {self.name!r}", scores, **parameters)
        if not np.array_equal(before, logits):
            raise ConfigError(
                f"normaliser {self.name!r} changes scores.logits in place; return a new array"
            )
        if not isinstance(corrected, np.ndarray) or corrected.dtype.kind != "f":
            kind = (
                f"array of {corrected.dtype}"
                if isinstance(corrected, np.ndarray)
                else type(corrected)
            )
            raise ConfigError(
                f"normaliser {self.name!r} returned {kind}; it must return a numpy array of floats"
            )
        if corrected.shape != logits.shape:
            raise ConfigError(
                f"normaliser {self.name!r} returned shape {corrected.shape}; the scores are (Q, G) "
                f"= {logits.shape}"
            )
        bad = int((~np.isfinite(corrected)).any(axis=1).sum())
        if bad:
            raise ConfigError(
                f"normaliser {self.name!r} returned NaN or infinity in "
                f"{bad:,} of {len(corrected):,} rows; subtract the maximum before exp, and avoid "
                "log of 0"
            )
        return corrected


def find_custom_normaliser(name: str) -> CustomNormaliser:
    """Import a custom normaliser and read its kinds, banks and parameters.

    Its parameters are those of its signature that have defaults.

    Raises:
        ConfigError: it cannot be imported, has a parameter without default after the scores, or
            its ``kinds`` or ``banks`` are unknown.
    """
    function = import_own(name, what="normaliser")
    kinds = _known(function, name, "kinds", KINDS, default=("inductive",))
    banks = _known(function, name, "banks", BANKS, default=("queries",))
    require_signature(function, name, what="normaliser", arguments=("scores",), options={})
    _, *others = inspect.signature(function).parameters.values()
    parameters = {other.name: other.default for other in others if other.default is not other.empty}
    for key, default in parameters.items():
        if isinstance(default, bool) or not isinstance(default, int | float | str):
            raise ConfigError(
                f"parameter {key} of normaliser {name!r} has the default {default!r}; give it a "
                "number or a string; its type decides which values the settings may hold"
            )
    return CustomNormaliser(name, function, kinds, banks, parameters)


def _known(
    function: Callable[..., Any],
    name: str,
    what: str,
    allowed: Sequence[str],
    *,
    default: Sequence[str],
) -> Sequence[str]:
    values = getattr(function, what, default)
    if not isinstance(values, tuple) or not values or not set(values) <= set(allowed):
        raise ConfigError(
            f"{what} of normaliser {name!r} are {values!r}; set a tuple of {', '.join(allowed)}"
        )
    return values
