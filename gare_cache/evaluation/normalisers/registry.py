"""Registry of test-time normalisers: their kinds, parameters, defaults and ranges."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import Field, FiniteFloat, create_model

from gare_cache.errors import ConfigError, counted, unknown_name
from gare_cache.evaluation.metrics import NonFiniteScores, Scores
from gare_cache.evaluation.normalisers.custom import find_custom_normaliser
from gare_cache.evaluation.normalisers.functions import (
    DirectionScores,
    csls,
    dsl,
    dual_dis,
    dual_is,
    inverted_softmax,
    negative_scores,
    nnn,
    none,
    qbnorm,
    sinkhorn,
)
from gare_cache.evaluation.normalisers.settings import (
    CslsSettings,
    DslSettings,
    DualDynamicSettings,
    DualSettings,
    NnnSettings,
    QbnormSettings,
    SinkhornSettings,
)
from gare_cache.own import is_own
from gare_cache.settings import Settings, parse_settings

RAW = "raw"
INDUCTIVE = "inductive"
TRANSDUCTIVE = "transductive"
# The banks: training queries, and training items of the gallery's kind.
QUERY_BANK = "queries"
GALLERY_BANK = "gallery"

_STRUCTURE = ("name", "kind")

Parameters = Mapping[str, int | float | str]


@dataclass(frozen=True)
class Normaliser:
    """A way to correct the scores of one direction.

    Attributes:
        function: called with ``DirectionScores`` and its settings by name, the parameters.
        kinds: ``inductive``: it uses training queries; ``transductive``: it uses all scored queries
            at once. The first is the default. Empty if it uses neither.
        settings: class of its settings, with default and range of each parameter.
        banks: which banks it uses if inductive.
        caution: returns a caution about the scores, or an empty string.
    """

    function: Callable[..., Scores]
    kinds: Sequence[str] = (INDUCTIVE,)
    settings: type[Settings] = Settings
    banks: Sequence[str] = (QUERY_BANK,)
    caution: Callable[[DirectionScores], str] = lambda scores: ""


def _dsl_caution(scores: DirectionScores) -> str:
    negative = negative_scores(scores)
    if not negative:
        return ""
    return (
        f"{negative:,} of {scores.logits.size:,} scores are negative; multiplied by a probability, "
        "the less probable of two equal ones ranks higher"
    )


_BOTH_BANKS = (QUERY_BANK, GALLERY_BANK)
_EITHER_KIND = (INDUCTIVE, TRANSDUCTIVE)

NORMALISERS: Mapping[str, Normaliser] = {
    "none": Normaliser(none, kinds=(), banks=()),
    "sinkhorn": Normaliser(sinkhorn, kinds=_EITHER_KIND, settings=SinkhornSettings),
    "inverted_softmax": Normaliser(inverted_softmax, kinds=_EITHER_KIND),
    "qbnorm": Normaliser(qbnorm, settings=QbnormSettings),
    "dsl": Normaliser(dsl, kinds=(TRANSDUCTIVE,), settings=DslSettings, caution=_dsl_caution),
    "dual_is": Normaliser(dual_is, settings=DualSettings, banks=_BOTH_BANKS),
    "dual_dis": Normaliser(dual_dis, settings=DualDynamicSettings, banks=_BOTH_BANKS),
    "csls": Normaliser(csls, settings=CslsSettings),
    "nnn": Normaliser(nnn, settings=NnnSettings),
}


@dataclass(frozen=True)
class NormaliserSetting:
    """A normaliser with a value for every parameter.

    Attributes:
        name: key of ``NORMALISERS``, or an import path.
        kind: ``raw``, ``inductive`` or ``transductive``.
        parameters: by name, complete.
    """

    name: str
    kind: str = RAW
    parameters: Parameters = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name and parameters, as ``qbnorm (beta 20, k 1)``; ``raw`` without a normaliser."""
        if self.kind == RAW:
            return RAW
        shown = ", ".join(f"{name} {_print(value)}" for name, value in self.parameters.items())
        return f"{self.name} ({shown})" if shown else self.name

    @property
    def banks(self) -> Sequence[str]:
        """Which banks it uses: none if transductive."""
        return find_normaliser(self.name).banks if self.kind == INDUCTIVE else ()


UNCORRECTED = NormaliserSetting("none")


@dataclass(frozen=True)
class NormaliserChoice:
    """A normaliser with one or several candidate values for each parameter.

    Attributes:
        name: key of ``NORMALISERS``, or an import path.
        kind: ``raw``, ``inductive`` or ``transductive``.
        candidates: by parameter, complete.
    """

    name: str
    kind: str
    candidates: Mapping[str, Sequence[int | float | str]]

    def settings(self) -> list[NormaliserSetting]:
        """Return every combination of candidates, the last parameter changing fastest."""
        names = list(self.candidates)
        return [
            NormaliserSetting(self.name, self.kind, dict(zip(names, values, strict=True)))
            for values in itertools.product(*self.candidates.values())
        ]


def find_normaliser(name: str) -> Normaliser:
    """Look up a normaliser by name, or import a custom one.

    Raises:
        ConfigError: the name is unknown, or the custom normaliser cannot be imported or used.
    """
    if is_own(name):
        custom = find_custom_normaliser(name)
        return Normaliser(
            custom,
            kinds=custom.kinds,
            settings=_settings_class(custom.parameters),
            banks=custom.banks,
        )
    if name not in NORMALISERS:
        raise ConfigError(unknown_name("normaliser", name, NORMALISERS))
    return NORMALISERS[name]


def read_choice(entry: Mapping[str, Any]) -> NormaliserChoice:
    """Check a mapping ``{name, kind, ...parameters}`` and fill in the defaults.

    Args:
        entry: a parameter is a value or a list of candidates.

    Raises:
        ConfigError: the name, the kind or a parameter is unknown, of another type or out of range.
    """
    name = entry.get("name")
    if not isinstance(name, str):
        raise ConfigError(
            f"a normaliser is a mapping with its name, such as {{name: csls, k: 10}}, not {entry!r}"
        )
    normaliser = find_normaliser(name)
    defaults = normaliser.settings().model_dump(by_alias=True)
    for key in entry:
        if key not in defaults and key not in _STRUCTURE:
            known = [*defaults, "kind"]
            raise ConfigError(unknown_name(f"parameter of normaliser {name}", str(key), known))
    candidates = {
        key: _candidates(name, normaliser.settings, key, entry.get(key, default))
        for key, default in defaults.items()
    }
    return NormaliserChoice(name, _kind(name, normaliser, entry), candidates)


def normalise(scores: DirectionScores, setting: NormaliserSetting) -> Scores:
    """Correct the scores of one direction.

    Args:
        scores: with the banks that the setting needs; a transductive normaliser takes the scored
            queries as its bank, even if another one is given.
        setting: the normaliser and its parameters.

    Returns:
        (Q, G) corrected scores; only their order within a row is meaningful.

    Raises:
        ConfigError: a bank is missing or has another gallery, or a transductive normaliser gets
            only one query.
        NonFiniteScores: NaN or infinity in the scores or in a bank.
    """
    normaliser = find_normaliser(setting.name)
    require_queries(setting, len(scores.logits))
    if setting.kind == TRANSDUCTIVE:
        scores = replace(scores, queries=scores.logits)
    _check_finite("scores", scores.logits)
    for name in setting.banks:
        _check_bank(setting.name, name, getattr(scores, name), scores.logits.shape[1])
    return normaliser.function(scores, **setting.parameters)


def require_queries(setting: NormaliserSetting, num_queries: int) -> None:
    """Raise an error if a transductive normaliser gets fewer than two queries.

    Raises:
        ConfigError: with what to change.
    """
    if setting.kind == TRANSDUCTIVE and num_queries < 2:
        raise ConfigError(
            f"normaliser {setting.name} is transductive and compares the scored queries with each "
            f"other, but there is {num_queries} in one direction; use an inductive normaliser, or "
            "leave it out"
        )


def _check_bank(normaliser: str, name: str, bank: Scores | None, num_items: int) -> None:
    if bank is None:
        raise ConfigError(f"{normaliser} is inductive and needs a bank of {name}, which is missing")
    if bank.ndim != 2 or len(bank) == 0 or bank.shape[1] != num_items:
        raise ConfigError(
            f"the bank of {name} for {normaliser} has shape {bank.shape}; it must hold rows of "
            f"scores against the same {counted(num_items, 'item')} as the scored queries"
        )
    _check_finite(f"bank of {name}", bank)


def _check_finite(what: str, values: Scores) -> None:
    bad = int((~np.isfinite(values)).any(axis=1).sum())
    if bad:
        raise NonFiniteScores(
            f"{bad:,} of {len(values):,} rows of the {what} hold NaN or infinity, which "
            "cannot be "
            "normalised"
        )


def _kind(name: str, normaliser: Normaliser, entry: Mapping[str, Any]) -> str:
    kinds = normaliser.kinds or (RAW,)
    kind = entry.get("kind", kinds[0])
    if kind not in kinds:
        raise ConfigError(f"normaliser {name} is {' or '.join(kinds)}, not kind: {kind!r}")
    return str(kind)


def _candidates(
    normaliser: str, settings: type[Settings], name: str, value: Any
) -> Sequence[int | float | str]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{name} of normaliser {normaliser} has an empty list of candidates")
    for candidate in values:
        parse_settings(settings, {name: candidate}, section=normaliser)
    return values


def _settings_class(defaults: Mapping[str, int | float | str]) -> type[Settings]:
    """Return the settings of a user's own normaliser: parameters of the types of its defaults."""
    # Any name may stand in a signature, but not for a field: an alias takes it.
    fields: dict[str, Any] = {
        f"parameter_{number}": (
            FiniteFloat if isinstance(default, float) else type(default),
            Field(default, alias=name),
        )
        for number, (name, default) in enumerate(defaults.items())
    }
    return create_model("CustomNormaliserSettings", __base__=Settings, **fields)


def _print(value: int | float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
