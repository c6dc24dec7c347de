"""Where the videos' vectors lie: the protocol of a vector store, and the exact one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

Vectors = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Rows that are held as float32 at a time: 64 MiB of 512 numbers.
_BLOCK_ROWS = 32_768


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
        best = [_Best(count) for _ in queries]
        for start in range(0, len(self._vectors), _BLOCK_ROWS):
            block: Any = self._vectors[start : start + _BLOCK_ROWS]
            products = asked @ torch.from_numpy(np.array(block)).float().T  # (Q, B)
            if allowed is not None:
                kept = torch.from_numpy(allowed[start : start + len(block)])
                products = products.masked_fill(~kept, -torch.inf)
            least = products.topk(min(count, len(block)), dim=1).values[:, -1:]  # (Q, 1)
            for of_query, scores, reaches in zip(best, products, products >= least, strict=True):
                rows = reaches.nonzero().flatten()
                of_query.add(scores[rows].numpy(), rows.numpy() + start)
        scores = np.stack([of_query.scores for of_query in best])
        rows = np.stack([of_query.rows for of_query in best])
        return Shortlist(np.where(np.isneginf(scores), -1, rows), scores)


class _Best:
    """The rows of the largest scores so far, equal ones in the order of the rows."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.scores = np.empty(0, np.float32)
        self.rows = np.empty(0, np.int64)

    def add(self, scores: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> None:
        scores, rows = np.append(self.scores, scores), np.append(self.rows, rows)
        order = np.lexsort((rows, -scores))[: self._count]
        self.scores, self.rows = scores[order], rows[order]
