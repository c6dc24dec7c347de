"""A user's own test-time normaliser."""

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
class OwnNormaliser:
    """A user's normaliser, called as ``my_normaliser(scores, **parameters)``.

    Attributes:
        name: import path.
        function: the user's.
        kinds: its attribute ``kinds``; inductive where it has none.
        banks: its attribute ``banks``, what it looks at where it is inductive; the bank of
            training queries where it has none.
        parameters: default of each, from the signature.
    """

    name: str
    function: Callable[..., Any]
    kinds: Sequence[str]
    banks: Sequence[str]
    parameters: Mapping[str, Any]

    def __call__(self, scores: Any, **parameters: Any) -> Scores:
        """Correct the scores of one direction.

        Args:
            scores: anything with ``logits`` (Q, G), as the built-in normalisers get it.
            parameters: by name.

        Raises:
            ConfigError: a parameter is unknown, or the function raises, or the result is no finite
                array of the shape of the logits, or the logits themselves were changed.
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
        found = call_own(self.function, f"normaliser {self.name!r}", scores, **parameters)
        if not np.array_equal(before, logits):
            raise ConfigError(
                f"normaliser {self.name!r} changes scores.logits in place; return a new array"
            )
        if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
            kind = f"array of {found.dtype}" if isinstance(found, np.ndarray) else type(found)
            raise ConfigError(
                f"normaliser {self.name!r} returned {kind}; it must return a numpy array of floats"
            )
        if found.shape != logits.shape:
            raise ConfigError(
                f"normaliser {self.name!r} returned shape {found.shape}; the scores are (Q, G) = "
                f"{logits.shape}"
            )
        bad = int((~np.isfinite(found)).any(axis=1).sum())
        if bad:
            raise ConfigError(
                f"normaliser {self.name!r} returned NaN or infinity in {bad:,} of {len(found):,} "
                "rows; subtract the maximum before exp, and mind logarithms of 0"
            )
        return found


def find_own_normaliser(name: str) -> OwnNormaliser:
    """Import a user's normaliser and read what it says of itself.

    Its parameters are those of its signature that have defaults.

    Raises:
        ConfigError: it cannot be imported, has a parameter without default behind the scores, or
            its ``kinds`` or ``banks`` are unknown.
    """
    function = import_own(name, what="normaliser")
    kinds = _known(function, name, "kinds", KINDS, default=("inductive",))
    banks = _known(function, name, "banks", BANKS, default=("queries",))
    require_signature(function, name, what="normaliser", arguments=("scores",), options={})
    _, *others = inspect.signature(function).parameters.values()
    parameters = {one.name: one.default for one in others if one.default is not one.empty}
    for key, default in parameters.items():
        if isinstance(default, bool) or not isinstance(default, int | float | str):
            raise ConfigError(
                f"parameter {key} of normaliser {name!r} has the default {default!r}; give it a "
                "number or a text, which decides what the settings may hold"
            )
    return OwnNormaliser(name, function, kinds, banks, parameters)


def _known(
    function: Callable[..., Any],
    name: str,
    what: str,
    allowed: Sequence[str],
    *,
    default: Sequence[str],
) -> Sequence[str]:
    found = getattr(function, what, default)
    if not isinstance(found, tuple) or not found or not set(found) <= set(allowed):
        raise ConfigError(
            f"{what} of normaliser {name!r} are {found!r}; set a tuple of {', '.join(allowed)}"
        )
    return found
