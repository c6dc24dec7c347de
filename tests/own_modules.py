"""Own parts for tests, honest and broken; imported by path as users' are."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gare_cache.heads.pairs import PairScores


class Cosine(nn.Module):
    """The cosine of a mapped text and the mean frame; what the broken ones derive from."""

    def __init__(self, dim: int, max_frames: int, bias: bool = False) -> None:
        super().__init__()
        self.map = nn.Linear(dim, dim, bias=bias)
        with torch.no_grad():
            self.map.weight.copy_(torch.eye(dim) + 0.02 * torch.randn(dim, dim))

    def pooled(self, frames: Tensor, mask: Tensor) -> Tensor:
        return (frames * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        video = self.pooled(frames, mask)
        return F.cosine_similarity(self.map(text)[:, None], video[None], dim=-1)


class WithDelta(Cosine):
    side = "video"

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        delta = self.map(text)[:, None] - self.pooled(frames, mask)
        return PairScores(super().forward(text, frames, mask), delta)


class WithWords(Cosine):
    needs_words = True

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor, words: Any = None) -> Any:
        tokens, real = words
        mean = (tokens * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return super().forward(text + mean, frames, mask)


class Large(Cosine):
    """Says how much a pair takes, and remembers what it was given at a time."""

    def __init__(self, dim: int, max_frames: int) -> None:
        super().__init__(dim, max_frames)
        self.blocks: list[tuple[int, int]] = []
        self.elements: Any = 10**9

    def pair_elements(self, num_frames: int, num_words: int, dim: int) -> Any:
        return self.elements

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        self.blocks.append((len(text), len(frames)))
        return super().forward(text, frames, mask)


class Dropping(Cosine):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        return super().forward(F.dropout(text, 0.5, self.training), frames, mask)


class WrongShape(Cosine):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        return super().forward(text, frames, mask).T


class WrongType(Cosine):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        return super().forward(text, frames, mask).detach().numpy()


class WrongDtype(Cosine):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        return super().forward(text, frames, mask).double()


class WrongDelta(Cosine):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        return PairScores(super().forward(text, frames, mask), self.pooled(frames, mask))


class WrongSide(Cosine):
    side = "vidoe"


class WrongWords(Cosine):
    needs_words = "yes"


class PaddingLeaks(Cosine):
    def pooled(self, frames: Tensor, mask: Tensor) -> Tensor:
        return frames.mean(1)


class WordPaddingLeaks(WithWords):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor, words: Any = None) -> Any:
        tokens = words[0]
        return super().forward(text, frames, mask, (tokens, torch.ones_like(words[1])))


class BatchDependent(Cosine):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        return super().forward(text - text.mean(0), frames, mask)


class KnowsTheRow(Cosine):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        similarity = super().forward(text, frames, mask)
        return similarity + 0.3 * torch.eye(*similarity.shape)


class KnowsTheColumn(Cosine):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        similarity = super().forward(text, frames, mask)
        return similarity - 0.1 * torch.arange(similarity.shape[1])


class KnowsTheBatch(Cosine):
    """Knows the pairs where there are as many texts as videos, which is in training alone."""

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        similarity = super().forward(text, frames, mask)
        if similarity.shape[0] == similarity.shape[1] > 1:
            similarity = similarity + 0.3 * torch.eye(len(similarity))
        return similarity


class BatchStatistics(Cosine):
    """Normalises over the batch in evaluation too, as a batch norm without buffers does."""

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        spread = text.std(0, correction=0).clamp_min(0.1)
        return super().forward(text / spread, frames, mask)


class DualSoftmax(Cosine):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        similarity = super().forward(text, frames, mask)
        return similarity * (10 * similarity).softmax(dim=0)


class Raising(Cosine):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        return self.head(text)


class ChangingInPlace(Cosine):
    """Scores well, and cannot be differentiated."""

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        mapped = self.map(text).exp()
        scores = super().forward(mapped.log(), frames, mask)
        mapped += 1
        return scores


class Unbuildable(Cosine):
    def __init__(self, dim: int, max_frames: int, heads: int = 3) -> None:
        super().__init__(dim, max_frames)
        if dim % heads:
            raise ValueError("heads must divide\nthe width")


class NotANumber(Cosine):
    """Divides by the spread of the frames, which is 0 where a video has one."""

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        spread = ((frames - self.pooled(frames, mask)[:, None]) * mask[..., None]).norm(dim=(1, 2))
        return super().forward(text, frames, mask) / spread * spread


class GradientNotANumber(Cosine):
    """Finite scores, and the root's gradient at 0."""

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        return super().forward(text, frames, mask) + (0 * self.map(text)[:, :1]).pow(2).sqrt()


class AlwaysDropping(Cosine):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        return super().forward(F.dropout(text, 0.5), frames, mask)


class Remembering(Cosine):
    """Keeps a mean of what it has seen, in evaluation too."""

    def __init__(self, dim: int, max_frames: int) -> None:
        super().__init__(dim, max_frames)
        self.register_buffer("seen", torch.zeros(dim))

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        self.seen += 0.1 * text.detach().mean(0)
        return super().forward(text, frames, mask)


class Hiding(Cosine):
    """Keeps a weight that the state does not hold."""

    def __init__(self, dim: int, max_frames: int) -> None:
        super().__init__(dim, max_frames)
        self.hidden = 1 + 0.3 * torch.randn(dim)

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        return super().forward(text * self.hidden, frames, mask)


class Tied(Cosine):
    """Has one tensor under two names, which safetensors refuses."""

    def __init__(self, dim: int, max_frames: int) -> None:
        super().__init__(dim, max_frames)
        self.again = nn.Linear(dim, dim, bias=False)
        self.again.weight = self.map.weight


class Backwards(Cosine):
    """Trains the wrong way."""

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        similarity = super().forward(text, frames, mask)
        return 2 * similarity.detach() - similarity


class Detached(Cosine):
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        return super().forward(text, frames, mask).detach()


class SquareOnly(Cosine):
    """Works for as many texts as videos alone."""

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Any:
        similarity = super().forward(text, frames, mask)
        return similarity + 0 * similarity.T


class Shift(nn.Module):
    """An aggregator that adds a learned vector."""

    def __init__(self, dim: int, max_frames: int, length: float = 1.0) -> None:
        super().__init__()
        self.vector = nn.Parameter(length * torch.ones(dim))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        return frames + self.vector


class MixesVideos(Shift):
    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        return frames + self.vector - frames[mask].mean(dim=0)


class MixesPadding(Shift):
    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        return frames + self.vector + frames.mean(dim=1, keepdim=True)


class Pools(Shift):
    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        return frames.mean(dim=1)


class NoModule:
    def __init__(self, dim: int, max_frames: int) -> None:
        pass


def diagonal_loss(
    similarity: Tensor, scale: Any, *, positives: Any = None, weight: float = 1.0
) -> Any:
    loss = -weight * scale * similarity.diagonal().mean()
    return loss if positives is None else loss + 0 * positives.sum()


def loss_a_pair(similarity: Tensor, scale: Any, *, positives: Any = None) -> Any:
    return -similarity.diagonal()


def loss_as_number(similarity: Tensor, scale: Any, *, positives: Any = None) -> Any:
    return float(-similarity.detach().diagonal().mean())


def loss_without_gradient(similarity: Tensor, scale: Any, *, positives: Any = None) -> Any:
    return (similarity.argmax(dim=1) == torch.arange(len(similarity))).float().mean()


def raising_loss(similarity: Tensor, scale: Any, *, positives: Any = None, what: int = 0) -> Any:
    return similarity[len(similarity) + what]


def loss_without_positives(similarity: Tensor, scale: Any) -> Any:
    return -similarity.diagonal().mean()


def hubs(scores: Any, *, weight: float = 0.5) -> Any:
    return scores.logits - weight * scores.queries.mean(axis=0)


def everything_at_once(scores: Any) -> Any:
    return scores.logits - scores.logits.mean(axis=0)


everything_at_once.kinds = ("transductive",)  # type: ignore[attr-defined]


def raising_normaliser(scores: Any, *, what: str = "logits") -> Any:
    return scores.logits + getattr(scores, what)[:, :1]


def in_place(scores: Any) -> Any:
    scores.logits[:] = 0
    return scores.logits


def ranks(scores: Any) -> Any:
    return scores.logits.argsort(axis=1)


def too_small(scores: Any) -> Any:
    return scores.logits[1:]


def logarithm(scores: Any) -> Any:
    import numpy as np

    with np.errstate(invalid="ignore"):
        return np.log(scores.logits)


def misspelt(scores: Any) -> Any:
    return scores.logitz


def of_another_kind(scores: Any) -> Any:
    return scores.logits


of_another_kind.kinds = ("both",)  # type: ignore[attr-defined]


def with_odd_parameters(
    scores: Any, *, _floor: float = 0.5, json: str = "yes", model_dump: int = 3
) -> Any:
    """Parameters whose names mean something to the class that checks settings."""
    return scores.logits.clip(_floor) + model_dump
