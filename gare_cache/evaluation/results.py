"""Typed results of scoring a split: the content of metrics.json and the source of the report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gare_cache.evaluation.comparison.differences import LEVEL, holm
from gare_cache.evaluation.metrics import DIRECTIONS, rsum
from gare_cache.evaluation.protocol_card import ProtocolCard

_LOW, _HIGH = "R@1 low", "R@1 high"
_COUNTS = {
    "queries": "queries",
    "queries_with_features": "queries with features",
    "queries_listed": "queries listed",
    "items": "items",
    "items_listed": "items listed",
    "tied": "tied queries",
}


@dataclass(frozen=True)
class DirectionResult:
    """The scores of one method in one direction.

    Attributes:
        metrics: recalls in percent, ``MdR`` and ``MnR``, by name; NaN for R@K where K reaches the
            size of the gallery.
        low: lower end of the 95 % interval of R@1, in percent; NaN where not estimable.
        high: its upper end.
        queries: number of queries counted.
        queries_with_features: number of queries ranked.
        queries_listed: number of queries of the split, including those without features.
        items: size of the searched gallery.
        items_listed: size of the complete gallery.
        tied: number of queries whose true item ties with another.
    """

    metrics: Mapping[str, float]
    low: float
    high: float
    queries: int
    queries_with_features: int
    queries_listed: int
    items: int
    items_listed: int
    tied: int

    def to_json(self) -> dict[str, Any]:
        """Return one flat mapping of metrics, interval and counts; None for NaN."""
        counts = {key: getattr(self, name) for name, key in _COUNTS.items()}
        values = {**self.metrics, _LOW: self.low, _HIGH: self.high}
        return {**{name: _or_none(value) for name, value in values.items()}, **counts}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DirectionResult:
        """Read what ``to_json`` returned.

        Raises:
            KeyError: an entry is missing.
        """
        counts = {name: values[key] for name, key in _COUNTS.items()}
        floats = {k: or_nan(v) for k, v in values.items() if k not in _COUNTS.values()}
        return cls(low=floats.pop(_LOW), high=floats.pop(_HIGH), metrics=floats, **counts)


# By direction, t2v and v2t.
MethodResult = Mapping[str, DirectionResult]


def sum_of_recalls(result: MethodResult) -> float:
    """Return RSum = R@1 + R@5 + R@10 of both directions."""
    return rsum({direction: scores.metrics for direction, scores in result.items()})


@dataclass(frozen=True)
class PairedDifference:
    """R@1 of one method minus that of another on the same queries, in points.

    Attributes:
        points: the difference.
        low: lower end of its 95 % interval (paired bootstrap over videos); NaN where not estimable.
        high: its upper end.
        videos: number of videos that were resampled.
        p_value: two-sided, from the same resamples; 1 where the interval is not estimable.
        p_holm: p adjusted for the other comparisons of the family (Holm).
    """

    points: float
    low: float
    high: float
    videos: int
    p_value: float
    p_holm: float

    @property
    def distinguishable(self) -> bool:
        """Whether the adjusted p is at most 0.05: the one rule for "not distinguishable"."""
        return self.p_holm <= LEVEL

    def to_json(self) -> dict[str, Any]:
        """Return the difference as metrics.json holds it."""
        return {
            "R@1": self.points,
            _LOW: _or_none(self.low),
            _HIGH: _or_none(self.high),
            "videos": self.videos,
            "p": self.p_value,
            "p Holm": self.p_holm,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PairedDifference:
        """Read what ``to_json`` returned.

        Raises:
            KeyError: an entry is missing.
        """
        keys = ("R@1", _LOW, _HIGH, "videos", "p", "p Holm")
        points, low, high, videos, p_value, p_holm = (values[key] for key in keys)
        return cls(points, or_nan(low), or_nan(high), videos, p_value, p_holm)


def adjusted_pairs(family: Mapping[str, PairedDifference]) -> dict[str, PairedDifference]:
    """Return a family of differences with p adjusted for their number (Holm)."""
    p_values = holm([difference.p_value for difference in family.values()])
    return {
        name: dataclasses.replace(difference, p_holm=p)
        for (name, difference), p in zip(family.items(), p_values, strict=True)
    }


@dataclass(frozen=True)
class CountedResult:
    """The scores of a split under one rule for queries without features.

    Attributes:
        missing: the rule, one of ``MISSING_RULES``.
        methods: scores by method.
        difference: the head minus zero shot, by direction.
    """

    missing: str
    methods: Mapping[str, MethodResult]
    difference: Mapping[str, PairedDifference]

    def to_json(self) -> dict[str, Any]:
        """Return the part of metrics.json that depends on the rule."""
        return {
            "missing": self.missing,
            "methods": {name: _directions(result) for name, result in self.methods.items()},
            "difference": _directions(self.difference),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CountedResult:
        """Read what ``to_json`` returned.

        Raises:
            KeyError: an entry is missing.
        """
        methods = {
            name: {d: DirectionResult.from_json(of_method[d]) for d in DIRECTIONS}
            for name, of_method in values["methods"].items()
        }
        difference = {d: PairedDifference.from_json(values["difference"][d]) for d in DIRECTIONS}
        return cls(values["missing"], methods, difference)


@dataclass(frozen=True)
class SplitResult:
    """The content of metrics.json.

    Attributes:
        run_key: of the head that was scored.
        manifest: digest of the manifest.
        split: name of the scored split.
        captions: which captions are queries.
        v2t_convention: how captions count in video to text.
        coverage: how much of the split has features, as a sentence.
        num_texts: number of scored texts.
        num_videos: number of scored videos.
        card: data set, protocol, counts, and the published test sets beside the scored one.
        headline: scores under the rule chosen in the settings.
        alternative: scores under the other rule; None where every query has features.
        normalisers: the normalisers' ledger; None without normalisers.
    """

    run_key: str
    manifest: str
    split: str
    captions: str
    v2t_convention: str
    coverage: str
    num_texts: int
    num_videos: int
    card: ProtocolCard
    headline: CountedResult
    alternative: CountedResult | None
    normalisers: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the content of metrics.json."""
        parts = ("card", "headline", "alternative", "normalisers")
        names = [field.name for field in dataclasses.fields(self) if field.name not in parts]
        return {
            **{name: getattr(self, name) for name in names},
            "card": self.card.to_json(),
            **self.headline.to_json(),
            "alternative": self.alternative and self.alternative.to_json(),
            **({} if self.normalisers is None else {"normalisers": dict(self.normalisers)}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SplitResult:
        """Read the content of metrics.json.

        Raises:
            KeyError: an entry is missing: another version of gare-cache wrote it.
        """
        parts = ("card", "headline", "alternative", "normalisers")
        names = [field.name for field in dataclasses.fields(cls) if field.name not in parts]
        other = values["alternative"]
        return cls(
            **{name: values[name] for name in names},
            card=ProtocolCard.from_json(values["card"]),
            headline=CountedResult.from_json(values),
            alternative=None if other is None else CountedResult.from_json(other),
            normalisers=values.get("normalisers"),
        )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def or_nan(value: float | None) -> float:
    """Return a number of a JSON file, where null stands for NaN."""
    return math.nan if value is None else value


def _directions(results: Mapping[str, DirectionResult | PairedDifference]) -> dict[str, Any]:
    return {direction: result.to_json() for direction, result in results.items()}
