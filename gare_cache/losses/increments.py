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

    def products(self, anchor: str) -> Tensor:
        """Return the inner products of each anchor's increments, (anchors, n, n)."""
        return gram(self.dense.transpose(0, 1) if anchor == "video" else self.dense)


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

    def products(self, anchor: str) -> Tensor:
        """Return the inner products of each anchor's increments, (anchors, n, n)."""
        if anchor != self.context_side:
            return TensorIncrements(self.dense).products(anchor)
        weights = self.weights if anchor == "text" else self.weights.transpose(0, 1)
        return weights @ self.vectors_gram @ weights.transpose(1, 2)


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
    products = increments.products(anchor)
    squares = products.diagonal(dim1=1, dim2=2)  # (anchors, n)
    scale = squares.clamp_min(_MIN_NORM**2).rsqrt()
    return products * scale[:, :, None] * scale[:, None, :]


def potentials(increments: Increments, anchor: str, alpha: float) -> Tensor:
    """Return mean_jk exp(-alpha (1 - c_jk)) of each anchor's ``cosines`` c, (anchors,)."""
    means: Tensor = _Potentials.apply(increments.products(anchor), alpha)[0]  # type: ignore[no-untyped-call]
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
    """Mean potential of rows with the symmetric products G, in few passes over (N, K, K).

    With s_j = G_jj^-1/2, c_jk = G_jk s_j s_k and e_jk = exp(-alpha (1 - c_jk)), the gradient of
    mean e is alpha / K^2 (e_jk s_j s_k - [j = k] s_j^2 sum_l e_jl c_jl); where a length is below
    1e-8 it counts as a constant.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(products: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
        squares = products.diagonal(dim1=1, dim2=2)  # (N, K)
        scale = squares.clamp_min(_MIN_NORM**2).rsqrt()
        energies = (products * scale[:, :, None]).mul_(scale[:, None, :])
        energies.sub_(1.0).mul_(alpha).exp_()
        return energies.mean(dim=(1, 2)), scale, energies

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        products, ctx.alpha = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(products, *output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        products, scale, energies = ctx.saved_tensors
        factor = gradients[0][:, None] * (ctx.alpha / products.shape[1] ** 2)
        of_products = (energies * (factor * scale)[:, :, None]).mul_(scale[:, None, :])
        own = torch.linalg.vecdot(of_products, products)  # (N, K)
        constant = products.diagonal(dim1=1, dim2=2) < _MIN_NORM**2
        own = (own * scale.square()).masked_fill(constant, 0.0)
        of_products.diagonal(dim1=1, dim2=2).sub_(own)
        return of_products, None


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
