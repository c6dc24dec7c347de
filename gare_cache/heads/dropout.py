"""Dropout whose mask costs little on a CPU, where pair tensors have millions of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

_STEPS = 2**16  # of a 16-bit number, four of which torch draws at once


# Streams of the runs that are trained together, in their order.
_streams: ContextVar[Sequence[torch.Generator]] = ContextVar("streams", default=())


@contextmanager
def drawing_from(streams: Sequence[torch.Generator]) -> Iterator[None]:
    """Let each row of a ``torch.vmap`` draw its masks from its own stream, as it would alone.

    Args:
        streams: generators on the CPU, one a row.
    """
    token = _streams.set(streams)
    try:
        yield
    finally:
        _streams.reset(token)


class PairDropout(nn.Dropout):
    """Set numbers to 0 with probability p and divide the others by 1 - p, in training mode alone.

    On a CPU the mask comes from 16-bit random numbers, so that p is rounded to a multiple of
    2^-16; torch's own draws a float a number in one thread, which takes six times as long.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop numbers of a tensor of any shape."""
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        dropped: Tensor = input * _Factors.apply(input, self.p)[0]  # type: ignore[no-untyped-call]
        return dropped


class _Factors(torch.autograd.Function):
    """The factors of a tensor's numbers: 0, or 1 / (1 - p).

    A tuple of one, because torch.compile takes no single output without a gradient.
    """

    @staticmethod
    def forward(input: Tensor, probability: float) -> tuple[Tensor]:
        return (_draw(input, probability, None),)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, None], input: Tensor, probability: float
    ) -> tuple[tuple[Tensor], tuple[int]]:
        streams, dim = _streams.get(), in_dims[0]
        if len(streams) != info.batch_size:
            raise RuntimeError(f"{len(streams)} random streams for {info.batch_size} runs")
        rows = [input] * len(streams) if dim is None else list(input.unbind(dim))
        pairs = zip(rows, streams, strict=True)
        return (torch.stack([_draw(row, probability, stream) for row, stream in pairs]),), (0,)


def _draw(values: Tensor, probability: float, stream: torch.Generator | None) -> Tensor:
    dropped = min(round(probability * _STEPS), _STEPS - 1)
    count = values.numel()
    drawn = torch.randint(
        -(2**63), 2**63 - 1, (-(-count // 4),), dtype=torch.int64, generator=stream
    )
    kept = drawn.view(torch.int16)[:count].view(values.shape) >= dropped - _STEPS // 2
    return kept.to(values.dtype).mul_(_STEPS / (_STEPS - dropped))
