"""The similarity matrix that a head gives to a split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from gare_cache.data.split import FeatureSplit
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.heads.scoring import blocks

Similarity = npt.NDArray[np.float32]

# Number of texts whose word tokens are padded and held as float32 at a time.
_TEXTS_WITH_WORDS = 4096


def score_split(head: RetrievalHead, split: FeatureSplit) -> Similarity:
    """Return the (T, V) cosines that a head on the split's device gives to a split.

    Raises:
        ConfigError: the head needs word tokens and the split was loaded without them.
    """
    if split.words is None:
        return _numpy(head.similarity(split.text, split.frames, split.mask))
    rows = torch.arange(len(split.text), device=split.text.device)
    parts = [
        head.similarity(split.text[part], split.frames, split.mask, split.words_of(rows[part]))
        for part in blocks(len(split.text), _TEXTS_WITH_WORDS)
    ]
    return _numpy(torch.cat(parts))  # (T, V)


def _numpy(scores: torch.Tensor) -> Similarity:
    similarity: Similarity = scores.cpu().numpy()
    return similarity
