"""Parts of ``diagnosis.json``: gradients, tension, geometry, recall and candidates of a head.

"With" and "without" mean with Delta and with Delta = 0; the corrected item is the text, or on the
video side the pooled video.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gare_cache.diagnosis.gradients import (
    BatchGradients,
    PairGradients,
    coupled_steps,
    uncoupled_steps,
)
from gare_cache.diagnosis.variation import share_inside
from gare_cache.errors import ConfigError
from gare_cache.evaluation.comparison.differences import compare_recalls, holm
from gare_cache.evaluation.duplicates import unit_rows
from gare_cache.evaluation.increment import angles
from gare_cache.evaluation.metrics import DIRECTIONS, QueryRanks, both_directions
from gare_cache.evaluation.modality_gap import MatchedPairs, Vectors
from gare_cache.evaluation.retrieved import top_texts, top_videos
from gare_cache.evaluation.significance import recall_interval
from gare_cache.evaluation.similarity import Similarity

NUM_BINS = 40
COVERAGE_AT = (10, 20, 50, 100)
# How many top items of a query are looked up in the plain tower's list.
TOP = 10

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Bounds = tuple[float, float]


def distributions(
    series: Mapping[str, npt.NDArray[Any]], bounds: Bounds | None = None
) -> dict[str, Any]:
    """Summarise values by histograms over shared bins and a few statistics.

    Args:
        series: by name; values that are not finite are left out and counted.
        bounds: of the bins; None takes the smallest and largest of all values.

    Returns:
        ``edges``, and under ``series`` by name ``counts``, ``n``, ``left out``, ``mean``, ``std``,
        ``p5``, ``median``, ``p95``; the last five are None without any finite value.
    """
    kept = {name: values[np.isfinite(values)] for name, values in series.items()}
    together = np.concatenate([np.ravel(values) for values in kept.values()])
    low, high = bounds or ((together.min(), together.max()) if len(together) else (0.0, 1.0))
    edges = np.linspace(low, high if high > low else low + 1e-6, NUM_BINS + 1)
    return {
        "edges": edges.tolist(),
        "series": {
            name: _statistics(values, edges, series[name].size) for name, values in kept.items()
        },
    }


def gradient_part(batch: BatchGradients) -> dict[str, Any]:
    """Return the gradient per dimension: from matched pairs, from all others, and their sum."""
    return {
        name: {
            "positive": _mean(gradients.positive),
            "negative": _mean(gradients.negative),
            "sum": _mean(gradients.positive + gradients.negative),
            "norms": {
                "positive": _mean_norm(gradients.positive),
                "negative": _mean_norm(gradients.negative),
                "sum": _mean_norm(gradients.positive + gradients.negative),
            },
            "opposition": float(
                torch.nn.functional.cosine_similarity(
                    gradients.positive, gradients.negative, dim=1, eps=1e-300
                ).mean()
            ),
        }
        for name, gradients in _by_name(batch).items()
    }


def tension_part(batch: BatchGradients) -> dict[str, Any]:
    """Return the tension of the anchors, 0 where the pairs' gradients cancel.

    Returns:
        ``anchors``: distributions with and without; ``gain``: distribution of each anchor's
        difference; ``higher``: share of the anchors with a higher tension with Delta, where a tie
        counts half.
    """
    series = {name: gradients.tension.numpy() for name, gradients in _by_name(batch).items()}
    gain = series["with"] - series["without"]
    return {
        "anchors": distributions(series, (0.0, 1.0)),
        "gain": distributions({"gain": gain}),
        "higher": float(((np.sign(gain) + 1) / 2).mean()),
    }


def descent_part(batch: BatchGradients) -> dict[str, Any]:
    """Return cos(Delta_ij, -g_ij), with g at item + Delta (``with``) and at the item.

    ``hardest`` is each anchor's unmatched pair of the highest probability.
    """
    matched = torch.eye(len(batch.increments), dtype=torch.bool)  # (B, B)
    hardest = batch.probability.masked_fill(matched, -1.0).argmax(dim=1)  # (B,)
    rows = torch.arange(len(matched))
    part = {}
    for name, gradients in _by_name(batch).items():
        cosines = (-gradients.along / batch.increments).numpy()
        series = {
            "matched": cosines[matched.numpy()],
            "unmatched": cosines[~matched.numpy()],
            "hardest": cosines[rows.numpy(), hardest.numpy()],
        }
        part[name] = distributions(series, (-1.0, 1.0))
    return part


def step_part(batch: BatchGradients, radius: float) -> dict[str, Any]:
    """Compare the coupled step a from Delta with the uncoupled eta = radius / |g|.

    Args:
        batch: gradients of a batch.
        radius: epsilon of the trust region.

    Returns:
        ``relative``: |a - eta| / eta in [0, 2]; ``difference``: |a - eta|, log10; both for matched
        and unmatched pairs. ``scaled back``: share of all pairs whose increment was scaled back.
    """
    gradients = batch.corrected
    step, scaled_back = coupled_steps(gradients.along, batch.increments, gradients.lengths, radius)
    uncoupled = uncoupled_steps(gradients.lengths, radius)
    matched = np.eye(len(batch.increments), dtype=bool)  # (B, B)
    apart = (step - uncoupled).abs()
    parts = {"relative": (apart / uncoupled).numpy(), "difference": apart.log10().numpy()}
    bounds = {"relative": (0.0, 2.0), "difference": None}
    return {
        "radius": radius,
        "scaled back": float(scaled_back.double().mean()),
        **{
            name: distributions({"matched": v[matched], "unmatched": v[~matched]}, bounds[name])
            for name, v in parts.items()
        },
    }


def geometry_part(
    pairs: MatchedPairs,
    side: str,
    corrected: Similarity,
    plain: Similarity,
    video_of_text: Rows,
) -> dict[str, Any]:
    """Return distributions of cosines, norms, distances and angles.

    Args:
        pairs: the matched pairs, with increments.
        side: the side corrected by the increment.
        corrected: (T, V) cosines of the head.
        plain: (T, V) cosines with Delta = 0.
        video_of_text: (T,) column of each text's video.

    Raises:
        ConfigError: the pairs have no increment.
    """
    text, video, delta = pairs.text, pairs.video, pairs.delta
    if delta is None:
        raise ConfigError("the head has no increment to diagnose; train one with head.gap")
    shifted = {
        "with": (text + delta, video) if side == "text" else (text, video + delta),
        "without": (text, video),
    }
    matched = np.zeros(plain.shape, dtype=bool)  # (T, V)
    matched[np.arange(len(matched)), video_of_text] = True
    item = "t" if side == "text" else "p"
    return {
        "cosines": {
            kind: distributions({"with": corrected[chosen], "without": plain[chosen]})
            for kind, chosen in (("matched", matched), ("unmatched", ~matched))
        },
        "norms": distributions(
            {
                "t": _lengths(text),
                "Delta": _lengths(delta),
                f"{item} + Delta": _lengths(text + delta if side == "text" else video + delta),
                "p": _lengths(video),
            }
        ),
        "distances": distributions({n: _lengths(a - b) for n, (a, b) in shifted.items()}),
        "means": {
            "vectors": {n: _apart(a, b) for n, (a, b) in shifted.items()},
            "directions": {n: _apart(unit_rows(a), unit_rows(b)) for n, (a, b) in shifted.items()},
        },
        "angles": distributions(
            {"gap": angles(delta, video - text), "text": angles(delta, text)}, (0.0, 180.0)
        ),
    }


def recall_part(
    similarities: Mapping[str, Similarity],
    video_of_text: Rows,
    *,
    reference: str,
    convention: str,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return R@1 of variants of a head, with paired differences to the unchanged head.

    Args:
        similarities: (T, V) by variant.
        video_of_text: (T,) column of each text's video.
        reference: the variant with which the others are compared.
        convention: of video to text.
        resamples: of the bootstrap over videos.
        seed: random seed of the bootstrap.

    Returns:
        By variant and direction ``R@1``, ``low``, ``high`` and, except for the reference,
        ``difference``: ``points``, ``low``, ``high``, ``p`` and ``p Holm``, adjusted for all
        variants and directions.
    """
    ranks = {
        name: both_directions(similarity, video_of_text, convention=convention)
        for name, similarity in similarities.items()
    }
    video_of_query = {"t2v": video_of_text, "v2t": np.unique(video_of_text)}

    def scored(name: str, direction: str) -> dict[str, Any]:
        videos = video_of_query[direction]
        hits = _hits(ranks[name][direction])
        low, high = recall_interval(hits, videos, resamples=resamples, seed=seed)
        scores: dict[str, Any] = {
            "R@1": 100 * float(hits.mean()),
            "low": low,
            "high": high,
            "queries": len(hits),
        }
        if name != reference:
            apart = compare_recalls(
                hits, _hits(ranks[reference][direction]), videos, resamples=resamples, seed=seed
            )
            scores["difference"] = {
                "points": apart.points,
                "low": apart.low,
                "high": apart.high,
                "p": apart.p_value,
            }
        return scores

    scores = {name: {d: scored(name, d) for d in DIRECTIONS} for name in similarities}
    family = [
        of_direction["difference"]
        for by_direction in scores.values()
        for of_direction in by_direction.values()
        if "difference" in of_direction
    ]
    p_values = holm([difference["p"] for difference in family])
    for difference, p_holm in zip(family, p_values, strict=True):
        difference["p Holm"] = p_holm
    return scores


def coverage_part(
    corrected: Similarity, plain: Similarity, video_of_text: Rows, convention: str
) -> dict[str, Any]:
    """Return the share of the head's top ten items among the plain tower's first K.

    Returns:
        By direction the number of ``items`` and, under ``at``, for each K below it ``share``: mean
        share of the top ten inside, and ``whole``: share of queries with all ten inside.
    """
    part: dict[str, Any] = {}
    for direction in DIRECTIONS:

        def top(similarity: Similarity, k: int, direction: str = direction) -> Rows:
            if direction == "t2v":
                return top_videos(similarity, k)
            return top_texts(similarity, video_of_text, k, convention=convention)

        first_ten = top(corrected, TOP)  # (Q, 10)
        candidates = top(plain, max(COVERAGE_AT))  # (Q, K)
        grouped = direction == "v2t" and convention == "best_caption_group"
        if grouped:  # the same group may be represented by another of its texts
            first_ten, candidates = video_of_text[first_ten], video_of_text[candidates]
        num_items = plain.shape[1] if direction == "t2v" else len(plain)
        num_items = len(np.unique(video_of_text)) if grouped else num_items
        at = {}
        for k in (k for k in COVERAGE_AT if k < num_items):
            shares = share_inside(first_ten, candidates[:, :k])  # (Q,)
            at[str(k)] = {"share": float(shares.mean()), "whole": float((shares == 1).mean())}
        part[direction] = {"items": num_items, "queries": len(first_ten), "at": at}
    return part


def jsonable(value: Any) -> Any:
    """Replace every number that is not finite by None, which JSON can represent."""
    if isinstance(value, Mapping):
        return {name: jsonable(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _by_name(batch: BatchGradients) -> dict[str, PairGradients]:
    return {"with": batch.corrected, "without": batch.plain}


def _statistics(values: npt.NDArray[Any], edges: Values, size: int) -> dict[str, Any]:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    statistics: dict[str, Any] = {
        "counts": counts.tolist(),
        "n": int(values.size),
        "left out": int(size - values.size),
    }
    names = ("mean", "std", "p5", "median", "p95")
    if not values.size:
        return statistics | dict.fromkeys(names)
    exact = values.astype(np.float64)
    quantiles = np.percentile(exact, [5, 50, 95])
    numbers = (exact.mean(), exact.std(), *quantiles)
    return statistics | {name: float(number) for name, number in zip(names, numbers, strict=True)}


def _hits(ranks: QueryRanks) -> Values:
    return ranks.hits(1)


def _lengths(vectors: Vectors) -> Values:
    lengths: Values = np.linalg.norm(vectors.astype(np.float64), axis=1)  # (T,)
    return lengths


def _apart(first: Vectors, second: Vectors) -> float:
    difference = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    return float(np.linalg.norm(difference))


def _mean(vectors: Tensor) -> list[float]:
    mean: list[float] = vectors.mean(dim=0).tolist()  # (D,)
    return mean


def _mean_norm(vectors: Tensor) -> float:
    return float(torch.linalg.vector_norm(vectors, dim=1).mean())
