"""Gradients of a whole batch in chunks: the memory of a chunk, the loss of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Encodes rows [start, end) of a part of the batch, with or without a graph.
Encode = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Part:
    """One part of a batch that is encoded by itself, such as its frames or its sentences.

    Attributes:
        encode: encodes rows of the part.
        size: number of rows.
        chunk: rows at a time.
    """

    encode: Encode
    size: int
    chunk: int

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """First row and the row behind the last, of every chunk."""
        return [(i, min(i + self.chunk, self.size)) for i in range(0, self.size, self.chunk)]


def backward_through(
    parts: Sequence[Part],
    differentiate: Callable[[Sequence[Tensor]], None],
    *,
    device: torch.device,
) -> None:
    """Add the gradient of a loss of encoded parts to the parameters that encode them.

    Gradient caching (arXiv:2101.06983): all chunks are encoded without a graph; the loss of the
    whole batch gives the gradient at the features; then every chunk is encoded again, with a graph
    and from the same random state, and that gradient is taken through it. A part of one chunk is
    encoded once, with its graph kept. The result is that of the whole batch at once, to rounding.

    Args:
        parts: what is encoded.
        differentiate: computes the loss of the features, (size, ...) for each part, and calls
            ``backward`` on it; the features are leaves or have a graph.
        device: where the parts are encoded.
    """
    states: list[list[_RandomState]] = []
    features: list[Tensor] = []
    for part in parts:
        if len(part.chunks) == 1:
            states.append([])
            features.append(part.encode(0, part.size))
            continue
        with torch.no_grad():
            of_part, encoded = [], []
            for rows in part.chunks:
                of_part.append(_RandomState.now(device))
                encoded.append(part.encode(*rows))
        states.append(of_part)
        features.append(_joined(encoded).requires_grad_())
    differentiate(features)
    behind = _RandomState.now(device)
    for part, of_part, whole in zip(parts, states, features, strict=True):
        if not of_part:
            continue
        assert whole.grad is not None
        for (start, end), state in zip(part.chunks, of_part, strict=True):
            state.restore(device)
            encoded_again = part.encode(start, end)
            gradient = whole.grad[start:end]
            encoded_again.backward(_fitted(gradient, encoded_again))  # type: ignore[no-untyped-call]
    behind.restore(device)


def _joined(encoded: Sequence[Tensor]) -> Tensor:
    """Concatenate rows; chunks of captions may be cut at different lengths, and are padded."""
    if encoded[0].dim() < 3:
        return torch.cat(list(encoded))
    longest = max(chunk.shape[1] for chunk in encoded)
    return torch.cat([_padded(chunk, longest) for chunk in encoded])


def _padded(chunk: Tensor, length: int) -> Tensor:
    filled = chunk.new_zeros(len(chunk), length, *chunk.shape[2:])
    filled[:, : chunk.shape[1]] = chunk
    return filled


def _fitted(gradient: Tensor, encoded: Tensor) -> Tensor:
    return gradient if gradient.dim() < 3 else gradient[:, : encoded.shape[1]]


@dataclass(frozen=True)
class _RandomState:
    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> _RandomState:
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda)

    def restore(self, device: torch.device) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)
