"""Scores of a split as text for a terminal."""

from __future__ import annotations

from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.results import DirectionResult, SplitResult
from gare_cache.evaluation.scores import METHOD_TITLES
from gare_cache.reports.normalisers import describe_normalisers


def describe_scores(result: SplitResult) -> list[str]:
    """Return the scores as lines, with coverage, under both rules if features are missing."""
    lines = [f"{result.split}: {result.coverage}"]
    for part in filter(None, (result.headline, result.alternative)):
        if result.alternative:
            mark = " (headline)" if part is result.headline else ""
            lines.append(f"evaluate.missing: {part.missing}{mark}")
        for method, by_direction in part.methods.items():
            lines += [
                f"  {METHOD_TITLES[method]:<9} {direction}  {_score_line(by_direction[direction])}"
                for direction in DIRECTIONS
            ]
    if result.normalisers is not None:
        lines += describe_normalisers(result.normalisers)
    return lines


def _score_line(scores: DirectionResult) -> str:
    recalls = ", ".join(f"R@{k} {scores.metrics[f'R@{k}']:.1f}" for k in (5, 10))
    return (
        f"R@1 {scores.metrics['R@1']:.1f} [{scores.low:.1f}, {scores.high:.1f}], {recalls}, "
        f"MdR {scores.metrics['MdR']:.1f}, n {scores.queries:,}, features of "
        f"{scores.queries_with_features:,} of {scores.queries_listed:,} queries"
    )
