"""Words that a frame does not show, put between those that it does.

The captions of the videos tell of motion and order in words that no caption of a frame holds. A
text tower that never met a stranger lets it disturb what it knows; one that learned only to pass
over strangers would leave the heads nothing to learn motion from. So it learns both: the frame it
matches stays the same, and which strangers stood where can still be read from the feature.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gare_cache.demo.captions import CAPTION_WORDS, SHAPE_WORDS, SIZE_WORDS
from gare_cache.demo.scenes import COLOURS, pick
from gare_cache.encoders.open_clip_import import import_open_clip

_MOST_STRANGERS = 3  # in one place
_FEWEST_PLACES = 0.4  # share of the places of a caption that take strangers
# A name stays whole: nothing comes between an article, a size, a colour and its shape.
_HELD_TOGETHER = frozenset(["a", "an", "in", "at", "on", "the", "of", "top", "bottom"]).union(
    COLOURS, *SIZE_WORDS.values()
)
_PLACES = 3  # before the first figure, behind it, behind the second
_SHARPNESS = 14.0  # of the reading's softmax, as CLIP's logit scale begins


@cache
def stranger_words() -> tuple[str, ...]:
    """Return CLIP's whole words that no caption of a frame or of a video holds."""
    tokens = import_open_clip().SimpleTokenizer().encoder
    words = (token.removesuffix("</w>") for token in tokens if token.endswith("</w>"))
    return tuple(
        word
        for word in words
        if word.isascii() and word.isalpha() and len(word) > 2 and word not in CAPTION_WORDS
    )


def with_strangers(caption: str, rng: np.random.Generator) -> str:
    """Put one to three strangers into some of the places between the words of a caption."""
    words = caption.split()
    ends = (0, len(words))
    places = {i for i in range(ends[1] + 1) if i in ends or words[i - 1] not in _HELD_TOGETHER}
    share = rng.uniform(_FEWEST_PLACES, 1.0)
    mixed: list[str] = []
    for i in range(len(words) + 1):
        if i in places and rng.random() < share:
            count = int(rng.integers(1, _MOST_STRANGERS + 1))
            mixed += [pick(stranger_words(), rng) for _ in range(count)]
        mixed += words[i : i + 1]
    return " ".join(mixed)


class StrangerReading(nn.Module):
    """A loss that keeps the strangers of a caption readable from its feature.

    Every stranger has a fixed random vector for each of three places: before the first figure,
    behind it, behind the second. A linear map of the feature has to find the sum over its caption
    among those of the batch (InfoNCE).
    """

    _vectors: Tensor
    _is_shape: Tensor

    def __init__(self, dim: int, *, seed: int) -> None:
        super().__init__()
        encoder = import_open_clip().SimpleTokenizer().encoder
        strangers = [encoder[f"{word}</w>"] for word in stranger_words()]
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.zeros(_PLACES, len(encoder), dim)
        vectors[:, strangers] = torch.randn(_PLACES, len(strangers), dim, generator=generator)
        is_shape = torch.zeros(len(encoder), dtype=torch.long)
        is_shape[[encoder[f"{word}</w>"] for words in SHAPE_WORDS.values() for word in words]] = 1
        self.register_buffer("_vectors", vectors)
        self.register_buffer("_is_shape", is_shape)
        self._read = nn.Linear(dim, dim)

    def forward(self, text: Tensor, tokens: Tensor) -> Tensor:
        """Return the loss over the captions that hold strangers; some of them must.

        Args:
            text: (B, D) unit features.
            tokens: (B, context) ids.
        """
        place = self._is_shape[tokens].cumsum(dim=1).clamp(max=_PLACES - 1)
        targets = self._vectors[place, tokens].sum(dim=1)  # [B, D]
        holds = targets.abs().sum(dim=1) > 0
        read = F.normalize(self._read(text[holds]), dim=-1)
        logits = read @ F.normalize(targets[holds], dim=-1).T * _SHARPNESS
        return F.cross_entropy(logits, torch.arange(len(logits)))
