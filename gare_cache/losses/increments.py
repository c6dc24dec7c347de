"""Lengths, moments and inner products of the increments Delta (T, V, D) of all pairs.

Increments come as their tensor, or as mixtures of a few vectors of each video or text; what the
regularisers ask of a mixture is taken from its weights and the vectors' Gram matrices where it can
be, and from the pair tensor where nothing else will do.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

_MIN_NORM = 1e-8
# Numbers of a few anchors' increments and products, which stay in a core's cache.
_BLOCK_ELEMENTS = 2**19


class Mixture(Protocol):
    """Delta_ij = sum_k e_ijk Z_nk, n = j where the vectors belong to the videos, else i."""

    @property
    def weights(self) -> Tensor:
        """The weights e, (T, V, K)."""

    @property
    def vectors(self) -> Tensor:
        """The vectors Z, (N, K, D)."""

    @property
    def vectors_gram(self) -> Tensor:
        """Z Z^T, (N, K, K)."""

    @property
    def squares(self) -> Tensor:
        """|Delta|^2, (T, V)."""

    @property
    def context_side(self) -> str:
        """``"video"`` or ``"text"``: whose the vectors are."""


class TensorIncrements:
    """Increments given as their tensor."""

    def __init__(self, delta: Tensor) -> None:
        """Take Delta, (T, V, D)."""
        self.dense = delta

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, V, D)."""
        texts, videos, dim = self.dense.shape
        return texts, videos, dim

    def lengths(self) -> Tensor:
        """Return |Delta_ij|, (T, V)."""
        norms: Tensor = torch.linalg.vector_norm(self.dense, dim=-1)
        return norms

    def directions(self) -> TensorIncrements:
        """Return Delta_ij / max(|Delta_ij|, 1e-8)."""
        lengths = self.lengths().clamp_min(_MIN_NORM)
        return TensorIncrements(self.dense / lengths[..., None])

    def moments(self, over: str) -> tuple[Tensor, Tensor]:
        """Return mean and unbiased variance over the ``"text"`` or ``"video"`` items.

        Both are (N, D), N the items of the other side.
        """
        moments: tuple[Tensor, Tensor] = _Moments.apply(self.dense, 0 if over == "text" else 1)  # type: ignore[no-untyped-call]
        return moments

    def factors(self, anchor: str) -> tuple[Tensor, Tensor | None]:
        """Return X and Y, (anchors, n, R), whose X Y^T are the products of an anchor's increments.

        Y is None where it is X.
        """
        return self.dense.transpose(0, 1) if anchor == "video" else self.dense, None


@dataclass(frozen=True, eq=False)
class MixtureIncrements:
    """Increments given as a ``Mixture``; the methods are those of ``TensorIncrements``."""

    weights: Tensor
    vectors: Tensor
    vectors_gram: Tensor
    squares: Tensor
    context_side: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, V, D)."""
        return self.weights.shape[0], self.weights.shape[1], self.vectors.shape[2]

    @functools.cached_property
    def dense(self) -> Tensor:
        """Delta, (T, V, D)."""
        if self.context_side == "text":
            return self.weights @ self.vectors
        return (self.weights.transpose(0, 1) @ self.vectors).transpose(0, 1)

    def lengths(self) -> Tensor:
        """Return |Delta_ij|, (T, V), at least 1e-8."""
        return self.squares.clamp_min(_MIN_NORM**2).sqrt()

    def directions(self) -> MixtureIncrements:
        """Return Delta_ij / max(|Delta_ij|, 1e-8)."""
        lengths = self.lengths()
        weights, squares = self.weights / lengths[..., None], self.squares / lengths.square()
        return replace(self, weights=weights, squares=squares)

    def moments(self, over: str) -> tuple[Tensor, Tensor]:
        """Return mean and unbiased variance over the ``"text"`` or ``"video"`` items.

        Over the other side than the vectors', with C_n the covariance of the weights of item n,

            mean_n = mean(e_n) Z_n,  variance_nd = z_nd^T C_n z_nd

        in float64, because vectors that are nearly equal cancel in the second.
        """
        if over == self.context_side:
            return TensorIncrements(self.dense).moments(over)
        weights = self.weights if over == "video" else self.weights.transpose(0, 1)  # (N, M, K)
        weights, vectors = weights.double(), self.vectors.double()
        mean = weights.mean(dim=1, keepdim=True)  # (N, 1, K)
        centred = weights - mean
        covariance = centred.transpose(1, 2) @ centred / (weights.shape[1] - 1)  # (N, K, K)
        variance = ((covariance @ vectors) * vectors).sum(dim=1).clamp_min(0.0)  # (N, D)
        dtype = self.vectors.dtype
        return (mean @ vectors)[:, 0].to(dtype), variance.to(dtype)

    def factors(self, anchor: str) -> tuple[Tensor, Tensor | None]:
        """Return X and Y, (anchors, n, R), whose X Y^T are the products of an anchor's increments.

        Y is None where it is X.
        """
        if anchor != self.context_side:
            return TensorIncrements(self.dense).factors(anchor)
        weights = self.weights if anchor == "text" else self.weights.transpose(0, 1)
        return weights, weights @ self.vectors_gram


Increments = TensorIncrements | MixtureIncrements


def as_increments(delta: Tensor | Mixture) -> Increments:
    """Return increments of either form as what the regularisers ask."""
    if isinstance(delta, Tensor):
        return TensorIncrements(delta)
    return MixtureIncrements(
        delta.weights, delta.vectors, delta.vectors_gram, delta.squares, delta.context_side
    )


def cosines(increments: Increments, anchor: str) -> Tensor:
    """Return the cosines of each anchor's increments, (anchors, n, n); lengths at least 1e-8."""
    left, right = increments.factors(anchor)
    products = gram(left) if right is None else left @ right.transpose(1, 2)
    squares = products.diagonal(dim1=1, dim2=2)  # (anchors, n)
    scale = squares.clamp_min(_MIN_NORM**2).rsqrt()
    return products * scale[:, :, None] * scale[:, None, :]


def potentials(increments: Increments, anchor: str, alpha: float) -> Tensor:
    """Return mean_jk exp(-alpha (1 - c_jk)) of each anchor's ``cosines`` c, (anchors,)."""
    means: Tensor = _Potentials.apply(*increments.factors(anchor), alpha)[0]  # type: ignore[no-untyped-call]
    return means


def gram(vectors: Tensor) -> Tensor:
    """Return the products (N, K, K) of all rows of (N, K, D); the gradient takes one product."""
    products: Tensor = _Gram.apply(vectors)  # type: ignore[no-untyped-call]
    return products


class _Gram(torch.autograd.Function):
    """X X^T, whose gradient (G + G^T) X autograd would take in two products."""

    generate_vmap_rule = True

    @staticmethod
    def forward(vectors: Tensor) -> Tensor:
        return vectors @ vectors.transpose(1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (vectors,) = ctx.saved_tensors
        (gradient,) = gradients
        of_vectors: Tensor = (gradient + gradient.transpose(1, 2)) @ vectors
        return of_vectors


class _Potentials(torch.autograd.Function):
    """Mean potential of rows with the products X Y^T, without a pass over memory per step.

    With s_j = (x_j . y_j)^-1/2, p = s x, q = s y and e_jk = exp(alpha p_j . q_k - alpha), the
    gradients of mean e to p and q are alpha / K^2 times e q and e p, because e is symmetric. They
    are taken at once, while a few anchors' (K, K) lie in the processor's cache, and scaled by what
    comes back. A row whose length is below 1e-8 is divided by that, a constant.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        left: Tensor, right: Tensor | None, alpha: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        _, count, width = left.shape
        size = max(1, _BLOCK_ELEMENTS // (count * (count + width)))
        size = len(left) if left.is_cuda else size
        others = [None] * len(left) if right is None else torch.split(right, size)
        parts = [
            _potentials_of(rows, other, alpha)
            for rows, other in zip(torch.split(left, size), others, strict=False)
        ]
        means, of_left, of_right = zip(*parts, strict=True)
        to_right = None if right is None else torch.cat(of_right)
        return torch.cat(means), torch.cat(of_left), to_right

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor | None, float],
        output: tuple[Tensor, Tensor, Tensor | None],
    ) -> None:
        slopes = [slope for slope in output[1:] if slope is not None]
        ctx.set_materialize_grads(False)  # zeros for the slopes themselves
        ctx.mark_non_differentiable(*slopes)
        ctx.save_for_backward(*slopes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None:
            return None, None, None
        scaled = [slope * gradients[0][:, None, None] for slope in ctx.saved_tensors]
        return scaled[0], scaled[1] if len(scaled) > 1 else None, None


def _potentials_of(
    left: Tensor, right: Tensor | None, alpha: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the means and their gradients to X and Y, both (N, K, R); Y is X where it is None."""
    other = left if right is None else right
    squares = torch.linalg.vecdot(left, other)[..., None]  # (N, K, 1)
    scale = squares.clamp_min(_MIN_NORM**2).rsqrt()
    constant = squares < _MIN_NORM**2
    left = left * scale
    right = None if right is None else right * scale
    other = left if right is None else right
    energies = torch.baddbmm(
        left.new_tensor(-alpha), left, other.transpose(1, 2), alpha=alpha
    ).exp_()  # (N, K, K)
    factor = alpha / energies.shape[1] ** 2
    of_left, of_right = energies @ other, None if right is None else energies @ left
    along = torch.linalg.vecdot(of_left, left)[..., None]  # as for Y, because X Y^T is symmetric
    along = along.masked_fill(constant, 0.0)
    if of_right is None:
        of_left = (of_left - along * left).mul_(2.0 * factor * scale)
    else:
        of_left, of_right = (
            (of_left - along * other).mul_(factor * scale),
            (of_right - along * left).mul_(factor * scale),
        )
    return energies.mean(dim=(1, 2)), of_left, of_right


class _Moments(torch.autograd.Function):
    """Mean and unbiased variance over a dimension, whose gradient is one pass over the tensor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        first = values.narrow(dim, 0, 1)
        differences = values - first
        offset = differences.mean(dim=dim, keepdim=True)  # exact where all are equal
        variance = differences.sub_(offset).mul_(differences).sum(dim=dim) / (values.shape[dim] - 1)
        return (first + offset).squeeze(dim), variance

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        values, ctx.dim = inputs
        ctx.save_for_backward(values, output[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        values, mean = ctx.saved_tensors
        mean = mean.unsqueeze(ctx.dim)
        of_mean, of_variance = (gradient.unsqueeze(ctx.dim) for gradient in gradients)
        count = values.shape[ctx.dim]
        slope = of_variance * (2.0 / (count - 1))
        return (values - mean).mul_(slope).add_(of_mean / count), None
