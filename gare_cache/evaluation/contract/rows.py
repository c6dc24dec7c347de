"""Rows, random features and scores shared by the contract checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gare_cache.heads.pairs import PairScores, Words
from gare_cache.heads.retrieval import RetrievalHead

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9}
FEATURE_NORM = 10.0  # about that of CLIP's features
TEXTS, VIDEOS, _WORDS = 7, 5, 6


@dataclass(frozen=True)
class ContractRow:
    """The outcome of one check.

    Attributes:
        name: what was checked.
        passed: whether the head passed.
        seen: what was measured.
        remedy: how to repair a failure; else empty.
    """

    name: str
    passed: bool
    seen: str
    remedy: str = ""


@dataclass(frozen=True)
class PairInputs:
    """Features of a batch of texts and videos.

    Attributes:
        text: (T, D).
        frames: (V, F, D), zero on padding.
        mask: (V, F).
        words: tokens (T, W, D), zero on padding, and (T, W); None for a head that needs none.
    """

    text: Tensor
    frames: Tensor
    mask: Tensor
    words: Words | None

    def of(self, texts: Any, videos: Any) -> PairInputs:
        """Return the features of some texts and some videos."""
        words = None if self.words is None else (self.words[0][texts], self.words[1][texts])
        return PairInputs(self.text[texts], self.frames[videos], self.mask[videos], words)


def random_inputs(
    head: RetrievalHead, *, texts: int = TEXTS, videos: int = VIDEOS, seed: int = 0
) -> PairInputs:
    """Draw random features as long as CLIP's, for videos of 1 to F frames.

    Args:
        head: gives D, F, dtype and whether words are needed.
        texts: T.
        videos: V.
        seed: random seed.
    """
    dim, max_frames = head.settings["dim"], head.settings["max_frames"]
    generator = torch.Generator().manual_seed(seed)
    length = FEATURE_NORM / dim**0.5

    def draw(*shape: int) -> Tensor:
        drawn = torch.tensor(length) * torch.randn(*shape, dim, generator=generator)
        return drawn.to(head.logit_scale.dtype)

    counts = torch.tensor(
        [1 + video * (max_frames - 1) // max(1, videos - 1) for video in range(videos)]
    )
    mask = torch.arange(max_frames) < counts[:, None]  # (V, F)
    words = None
    if head.needs_words:
        word_counts = torch.tensor([1 + text % _WORDS for text in range(texts)])
        real = torch.arange(_WORDS) < word_counts[:, None]  # (T, W)
        words = (draw(texts, _WORDS) * real[..., None], real)
    return PairInputs(draw(texts), draw(videos, max_frames) * mask[..., None], mask, words)


def as_values(rows: Sequence[ContractRow]) -> list[Mapping[str, Any]]:
    """Return the rows as plain values, for JSON."""
    return [dict(vars(row)) for row in rows]


def compare(
    name: str, before: Tensor, after: Tensor, remedy: str, *, tolerance: float | None = None
) -> ContractRow:
    """Check that two sets of scores are equal; NaN equals nothing.

    Args:
        name: of the check.
        before: scores.
        after: scores of the same shape and dtype.
        remedy: what to do if they differ.
        tolerance: how far they may differ; None for the tolerance of their dtype.
    """
    difference = (before - after).abs().max().item()
    passed = difference <= (TOLERANCES[before.dtype] if tolerance is None else tolerance)
    seen = f"largest difference {difference:.2g}"
    return ContractRow(name, passed, seen, "" if passed else remedy)


def forward_scores(head: RetrievalHead, inputs: PairInputs) -> PairScores:
    """Score all pairs at once, as training does, in the head's current mode."""
    scores: PairScores = head(inputs.text, inputs.frames, inputs.mask, inputs.words)
    return scores


@torch.no_grad()
def eval_scores(head: RetrievalHead, inputs: PairInputs) -> Tensor:
    """Return the similarity of ``forward_scores`` without gradients."""
    return forward_scores(head, inputs).similarity


def block_scores(head: RetrievalHead, inputs: PairInputs, **options: Any) -> Tensor:
    """Score as evaluation does, in blocks."""
    return head.similarity(inputs.text, inputs.frames, inputs.mask, inputs.words, **options)


def listed(names: Sequence[str]) -> str:
    """Join the first three names and say how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
