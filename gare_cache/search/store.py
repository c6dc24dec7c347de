"""Where the videos' vectors lie: the protocol of a vector store, and the exact one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from gare_cache.evaluation.retrieved import TopK

Vectors = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Rows whose products are held at a time, and those that are held as float32: 8 MiB of 512 numbers.
_BLOCK_ROWS = 32_768
_PART_ROWS = 4096
_STAMPED_ROWS = 4096


@dataclass(frozen=True)
class Shortlist:
    """The nearest rows of each query, the best first.

    Attributes:
        rows: (Q, K) int64 rows of the store; -1 where a store found fewer.
        scores: (Q, K) float32 cosines; -inf there.
    """

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


class VectorStore(Protocol):
    """Finds the nearest of many vectors of length 1."""

    @property
    def identity(self) -> str:
        """What the result of ``nearest`` depends on beside the vectors; ``exact`` is all."""

    def __len__(self) -> int:
        """Return the number of vectors."""

    def nearest(
        self, queries: npt.NDArray[np.float32], count: int, allowed: Mask | None = None
    ) -> Shortlist:
        """Return the vectors with the largest inner products.

        Args:
            queries: (Q, D).
            count: K, how many; the whole store where it has fewer.
            allowed: (N,) which rows may be found; None is all.
        """


class ExactStore:
    """All inner products, block by block, of vectors that may be memory-mapped."""

    identity = "exact"

    def __init__(self, vectors: Vectors) -> None:
        """Keep vectors (N, D) of length 1."""
        self._vectors = vectors

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._vectors)

    def nearest(
        self, queries: npt.NDArray[np.float32], count: int, allowed: Mask | None = None
    ) -> Shortlist:
        """Return the nearest vectors, equal ones in the order of the rows; see ``VectorStore``."""
        asked = torch.from_numpy(np.ascontiguousarray(queries, np.float32))  # (Q, D)
        best = TopK(count, len(queries))
        for start in range(0, len(self._vectors), _BLOCK_ROWS):
            products = self._products(asked, start).numpy()  # (Q, B)
            rows = np.arange(start, start + products.shape[1])
            if allowed is not None:
                products[:, ~allowed[rows]] = -np.inf
            best.add(products, rows)
        scores, found = best.best()
        return Shortlist(np.where(np.isneginf(scores), -1, found), scores)

    def _products(self, asked: torch.Tensor, start: int) -> torch.Tensor:
        """Return the products (Q, B) of a block; in parts that stay in the processor's cache."""
        stop = min(start + _BLOCK_ROWS, len(self._vectors))
        products = torch.empty(len(asked), stop - start)
        for first in range(start, stop, _PART_ROWS):
            part: Any = self._vectors[first : min(first + _PART_ROWS, stop)]
            values = torch.from_numpy(np.array(part)).float()
            products[:, first - start : first - start + len(part)] = asked @ values.T
        return products


def places_of(found: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the place of each found row of the cache among the gallery's rows (N,); -1 stays."""
    order = np.argsort(rows)
    nearest = np.searchsorted(rows, found, sorter=order).clip(max=len(rows) - 1)
    places: npt.NDArray[np.int64] = np.where(found < 0, -1, order[nearest])
    return places


def stamps(vectors: Vectors) -> npt.NDArray[np.uint64]:
    """Return a number (N,) for each vector by which a change of its bytes shows.

    The sum of w_i c_i mod 2^64 over its 16-bit words w_i, with fixed odd c_i.
    """
    words = np.asarray(vectors).view(np.uint16)  # (N, W)
    factors = np.random.default_rng(0).integers(0, 2**63, words.shape[1], np.uint64) * 2 + 1
    parts = [
        words[start : start + _STAMPED_ROWS].astype(np.uint64) @ factors
        for start in range(0, len(words), _STAMPED_ROWS)
    ]
    return np.concatenate([np.empty(0, np.uint64), *parts])
