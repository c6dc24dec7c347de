"""GARE's regularisers of the increment Delta (T, V, D); rows are texts.

Where a term compares the increments of one anchor, the anchor is the item that Delta corrects: on
the text side text i with its increments to all videos j, on the video side video j with its
increments to all texts i (this project's reading; the paper writes the text side alone).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gare_cache.errors import ConfigError
from gare_cache.losses.increments import Mixture, as_increments, cosines, potentials
from gare_cache.settings import Side

_STD_OFFSET = 1e-6
_LOG_OFFSET = 1e-8


def information_bottleneck(
    delta: Tensor | Mixture,
    *,
    reduction: Literal["sum", "mean"],
    anchor: Side,
    prior_sigma: float,
    normalise: bool,
) -> Tensor:
    """Penalise the information in an anchor's increments: their KL divergence from a normal prior.

    L_ib = 1/V sum_j KL( N(mu_j, diag sigma_j^2) || N(0, sigma_p^2 I) )
         = 1/V sum_j 1/2 sum_d ( r_jd^2 + (mu_jd / sigma_p)^2 - 1 - 2 log r_jd )

    with mu_j and sigma_j over the texts i of Delta_ij (unbiased standard deviation + 1e-6) and
    r = sigma / sigma_p; with anchor ``text``, mu_i and sigma_i over the videos j and a mean over
    the texts. Source: GARE, arXiv:2505.12499, App. F and its ablations, and its reference code.

    Args:
        delta: (T, V, D) in any form, at least 2 of the items that the statistics run over.
        reduction: over the dimensions: ``"sum"`` (reference code) or ``"mean"`` (paper).
        anchor: ``"video"`` or ``"text"``: whose increments make one posterior.
        prior_sigma: sigma_p, above 0.
        normalise: take Delta / ||Delta|| instead of Delta.

    Returns:
        Scalar.

    Raises:
        ConfigError: fewer than 2 items.
    """
    increments = as_increments(delta)
    over = "text" if anchor == "video" else "video"
    _require_two("ib", f"{over}s", increments.shape[0 if over == "text" else 1])
    if normalise:
        increments = increments.directions()
    mean, variance = increments.moments(over)
    mean = mean / prior_sigma
    std = (_root(variance) + _STD_OFFSET) / prior_sigma
    divergence = 0.5 * (std.square() + mean.square() - 1.0 - 2.0 * std.log())  # (anchors, D)
    over_dimensions = divergence.sum(-1) if reduction == "sum" else divergence.mean(-1)
    return over_dimensions.mean()


def norm_spread(
    delta: Tensor | Mixture,
    *,
    bound: float,
    form: Literal["clamp", "smooth"],
    side: Side = "text",
) -> Tensor:
    """Reward a spread of the increments' lengths at each anchor, up to a bound.

    With m = mean_i Var_j ||Delta_ij||, unbiased variance (video side: mean_j Var_i),

        clamp:  L_eps = max( -m, -bound )
        smooth: L_eps = log( exp(-m) + exp(-bound) )

    Source: GARE, arXiv:2505.12499, App. F and its ablations. Past the bound the reference code
    returns 0 instead of -bound: the same (zero) gradient, another value. The smooth form lies
    above the clamp by at most log 2, where m = bound, and never stops rewarding.

    Args:
        delta: (T, V, D) in any form, at least 2 increments an anchor.
        bound: lambda, above 0.
        form: ``"clamp"`` or ``"smooth"``.
        side: ``"text"`` or ``"video"``: which item Delta corrects.

    Returns:
        Scalar.

    Raises:
        ConfigError: fewer than 2 increments an anchor.
    """
    increments, along = as_increments(delta), _others_dim(side)
    _require_two("eps", _others(side), increments.shape[along])
    spread = -increments.lengths().var(dim=along).mean()
    if form == "smooth":
        return torch.logaddexp(spread, torch.full_like(spread, -bound))
    return spread.clamp_min(-bound)


def direction_diversity(delta: Tensor | Mixture, *, alpha: float, side: Side = "text") -> Tensor:
    """Spread the directions of an anchor's increments over the sphere.

    L_dir = mean_i log( mean_{j,k} exp( -alpha (1 - <z_ij, z_ik>) ) + 1e-8 ), z = Delta/||Delta||,
    j = k included; on the video side mean over j, pairs over i. Source: GARE, arXiv:2505.12499,
    App. F.

    Args:
        delta: (T, V, D) in any form.
        alpha: concentration, above 0.
        side: ``"text"`` or ``"video"``: which item Delta corrects.

    Returns:
        Scalar, at most log(1 + 1e-8).
    """
    return (potentials(as_increments(delta), side, alpha) + _LOG_OFFSET).log().mean()


def orthogonality(delta: Tensor | Mixture, *, side: Side = "text") -> Tensor:
    """Penalise the squared cosines between an anchor's increments.

    L_orth = mean_i mean_{j != k} <z_ij, z_ik>^2, z = Delta/||Delta||; on the video side mean over
    j, pairs over i. Source: an ablation of GARE, arXiv:2505.12499, in place of L_dir.

    Args:
        delta: (T, V, D) in any form, at least 2 increments an anchor.
        side: ``"text"`` or ``"video"``: which item Delta corrects.

    Returns:
        Scalar in [0, 1].

    Raises:
        ConfigError: fewer than 2 increments an anchor.
    """
    increments = as_increments(delta)
    count = increments.shape[_others_dim(side)]
    _require_two("orthogonality", _others(side), count)
    squares = cosines(increments, side).square()  # (anchors, n, n)
    squares = squares.masked_fill(torch.eye(count, dtype=torch.bool, device=squares.device), 0.0)
    return squares.sum(dim=(1, 2)).mean() / (count * (count - 1))


def trust_region(delta: Tensor | Mixture, *, radius: Tensor | float) -> Tensor:
    """Penalise increments that are longer than a radius.

    L_tr = mean_ij max( ||Delta_ij|| - radius, 0 )^2. Source: version 1 of GARE, arXiv:2505.12499,
    which calls the radius epsilon, fixed or learned. The gradient at the radius is never above 0:
    a learned radius only grows, until no increment is longer.

    Args:
        delta: (T, V, D) in any form.
        radius: above 0.

    Returns:
        Scalar.
    """
    return (as_increments(delta).lengths() - radius).clamp_min(0.0).square().mean()


def _others(side: Side) -> str:
    return "texts" if side == "video" else "videos"


def _others_dim(side: Side) -> int:
    """Return the dimension of (T, V) along which the items lie that an anchor compares."""
    return 0 if side == "video" else 1


def _root(variance: Tensor) -> Tensor:
    """Return the root, with a gradient of 0 where the variance is 0."""
    return variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()


def _require_two(term: str, what: str, count: int) -> None:
    if count < 2:
        raise ConfigError(
            f"{term} compares at least 2 {what} of a batch and got {count}; use a batch of at "
            f"least 2 pairs, drop the last batch, or set {term}.weight: 0"
        )
