"""GARE's regularisers of the increment Delta (T, V, D), text side: rows are texts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gare_cache.errors import ConfigError, unknown_name

REDUCTIONS = ("sum", "mean")
_STD_OFFSET = 1e-6
_LOG_OFFSET = 1e-8
_MIN_NORM = 1e-8


def information_bottleneck(delta: Tensor, *, reduction: str = "sum") -> Tensor:
    """Penalise what the increments of a video tell beyond a standard normal prior.

    L_ib = 1/V sum_j KL( N(mu_j, diag sigma_j^2) || N(0, I) )
         = 1/V sum_j 1/2 sum_d ( sigma_jd^2 + mu_jd^2 - 1 - 2 log sigma_jd )

    with mu_j and sigma_j over the texts i of Delta_ij (unbiased standard deviation + 1e-6).
    Source: GARE, arXiv:2505.12499, App. F, and its reference code.

    Args:
        delta: (T, V, D), T at least 2.
        reduction: over the dimensions: ``"sum"`` (reference code) or ``"mean"`` (paper).

    Returns:
        Scalar.

    Raises:
        ConfigError: fewer than 2 texts, or an unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise ConfigError(unknown_name("ib.reduction", reduction, REDUCTIONS))
    _require_two("ib", "texts", delta.shape[0])
    mean = delta.mean(dim=0)
    std = delta.std(dim=0) + _STD_OFFSET
    divergence = 0.5 * (std.square() + mean.square() - 1.0 - 2.0 * std.log())  # (V, D)
    over_dimensions = divergence.sum(-1) if reduction == "sum" else divergence.mean(-1)
    return over_dimensions.mean()


def norm_spread(delta: Tensor, *, bound: float = 0.5) -> Tensor:
    """Reward a spread of the increments' lengths over the videos of a text, up to a bound.

    L_eps = max( -mean_i Var_j ||Delta_ij||, -bound ), unbiased variance. Source: GARE,
    arXiv:2505.12499, App. F. Past the bound the reference code returns 0 instead of -bound: the
    same (zero) gradient, another value.

    Args:
        delta: (T, V, D), V at least 2.
        bound: lambda, above 0.

    Returns:
        Scalar in [-bound, 0].

    Raises:
        ConfigError: fewer than 2 videos.
    """
    _require_two("eps", "videos", delta.shape[1])
    norms: Tensor = torch.linalg.vector_norm(delta, dim=-1)
    return (-norms.var(dim=1).mean()).clamp_min(-bound)


def direction_diversity(delta: Tensor, *, alpha: float = 2.0) -> Tensor:
    """Spread the directions of a text's increments over the sphere.

    L_dir = mean_i log( mean_{j,k} exp( -alpha (1 - <z_ij, z_ik>) ) + 1e-8 ), z = Delta/||Delta||,
    j = k included. Source: GARE, arXiv:2505.12499, App. F.

    Args:
        delta: (T, V, D).
        alpha: concentration, above 0.

    Returns:
        Scalar, at most log(1 + 1e-8).
    """
    directions = F.normalize(delta, dim=-1, eps=_MIN_NORM)
    cosines = directions @ directions.transpose(1, 2)  # (T, V, V)
    potentials = torch.exp(-alpha * (1.0 - cosines)).mean(dim=(1, 2))
    return (potentials + _LOG_OFFSET).log().mean()


def _require_two(term: str, what: str, count: int) -> None:
    if count < 2:
        raise ConfigError(
            f"{term} takes an unbiased variance over the {what} of a batch and got {count}; use a "
            f"batch of at least 2 pairs, drop the last batch, or set {term}.weight: 0"
        )
