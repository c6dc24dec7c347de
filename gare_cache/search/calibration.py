"""What a gallery's own captions tell a search: how many pairs to score, and what a match scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from gare_cache.data.words import WordTokens
from gare_cache.evaluation.retrieved import TopK
from gare_cache.heads.scoring import blocks
from gare_cache.project.progress import progress
from gare_cache.search.encoded import EncodedGallery
from gare_cache.search.store import VectorStore

# Pairs that are scored exactly where no caption tells how many are needed.
RERANK = 256
AGREEMENT = 0.999
_TOP = 10
_MOST_QUERIES = 1000
_FEWEST_QUERIES = 20
_QUANTILE = 0.05
_SAMPLE = 4096
_VIDEOS_AT_A_TIME = 1024
_QUERIES_AT_A_TIME = 128


@dataclass(frozen=True)
class Calibration:
    """How a gallery is searched.

    Attributes:
        rerank: videos of the shortlist that are scored exactly.
        agreement: share of the queries whose first ten are those of full scoring at ``rerank``;
            None if nothing was measured.
        queries: number of captions behind it.
        least_match: the score that 95 % of the captions reach with their video; None without
            captions.
        sample: (S, D) vectors of some videos, evenly spaced.
    """

    rerank: int
    agreement: float | None
    queries: int
    least_match: float | None
    sample: Tensor

    def to_json(self) -> dict[str, Any]:
        """Return the measured values."""
        return {
            "rerank": self.rerank,
            "agreement": self.agreement,
            "queries": self.queries,
            "least_match": self.least_match,
        }


def sample_of(vectors: npt.NDArray[np.float16]) -> Tensor:
    """Return at most 4,096 of the vectors, evenly spaced, as float32."""
    rows = np.linspace(0, len(vectors) - 1, min(_SAMPLE, len(vectors))).astype(np.int64)
    return torch.from_numpy(np.asarray(vectors[rows], np.float32))


def is_chance(sample: Tensor, vector: Tensor, best: float, size: int) -> bool:
    """Return whether the best of a gallery stands out no more than the best of as many draws.

    The scores of the sample have mean m and standard deviation s. The largest of N normal draws is
    about m + s sqrt(2 ln N); a best score below it is no match.

    Args:
        sample: (S, D) vectors of the gallery.
        vector: (D,) of the query.
        best: cosine of the query and the nearest video.
        size: N, number of videos in the gallery.
    """
    if size < _FEWEST_QUERIES:
        return False
    scores = sample @ vector  # (S,)
    limit = scores.mean() + scores.std() * math.sqrt(2 * math.log(size))
    return best < float(limit)


def calibrate(
    videos: EncodedGallery,
    store: VectorStore,
    caption_of: Mapping[str, str],
    *,
    whole: bool,
) -> Calibration:
    """Score captions of the gallery against all its videos, and see what a shortlist would lose.

    Args:
        videos: the gallery as the head sees it.
        store: finds the shortlist.
        caption_of: caption id -> its video, of captions with features; at most 1,000 are taken,
            evenly spaced.
        whole: whether the gallery is scored as a whole anyway, so that only the captions' own
            videos are scored here.
    """
    gallery, head = videos.gallery, videos.head
    known = [id_ for id_, video in caption_of.items() if video in gallery.place_of]
    sample = sample_of(videos.vectors)
    if len(known) < _FEWEST_QUERIES:
        return Calibration(RERANK, None, 0, None, sample)
    rows = np.linspace(0, len(known) - 1, min(_MOST_QUERIES, len(known))).astype(int)
    ids = [known[row] for row in rows.tolist()]
    true = np.array([gallery.place_of[caption_of[id_]] for id_ in ids])
    device = head.logit_scale.device
    text = torch.from_numpy(gallery.cache.captions(ids)).float().to(device)
    words = None
    if head.needs_words:
        tokens = gallery.cache.words(ids)
        lengths = torch.tensor([len(of) for of in tokens], device=device)
        stacked = torch.from_numpy(np.concatenate(tokens)).to(device)
        words = WordTokens(stacked, lengths).padded(torch.arange(len(ids), device=device))
    places = np.unique(true) if whole else np.arange(len(gallery.videos))
    best, own = TopK(_TOP, len(ids)), np.full(len(ids), np.nan, np.float32)
    with progress("calibration", len(places)) as advance:
        for part in blocks(len(places), _VIDEOS_AT_A_TIME):
            frames, mask = videos.frames(places[part].tolist())
            scores = head.similarity(text, frames, mask, words, encoded=True).cpu().numpy()
            here = np.flatnonzero(np.isin(true, places[part]))
            own[here] = scores[here, np.searchsorted(places[part], true[here])]
            best.add(scores, places[part])
            advance(len(places[part]))
    least = float(np.quantile(own, _QUANTILE))
    if whole:
        return Calibration(RERANK, None, len(ids), least, sample)
    with torch.no_grad():
        queries = F.normalize(head.encode_text(text), dim=-1).cpu().numpy()
    rerank, agreement = _needed(best.best()[1], queries, store)
    return Calibration(rerank, agreement, len(ids), least, sample)


def _needed(
    best: npt.NDArray[np.int64], queries: npt.NDArray[np.float32], store: VectorStore
) -> tuple[int, float]:
    """Return the least K, a power of two of at least 64, that keeps the first ten; how often.

    With an approximate store, K stops where twice as many gain nothing.

    Args:
        best: (Q, 10) places of the first ten by full scoring.
        queries: (Q, D) vectors of the captions.
        store: finds the shortlist.
    """
    size = len(store)
    count, before = min(64, size), -1.0
    while True:
        kept = [
            set(row.tolist()) <= set(of.tolist())
            for part in blocks(len(queries), _QUERIES_AT_A_TIME)
            for row, of in zip(best[part], store.nearest(queries[part], count).rows, strict=True)
        ]
        agreement = float(np.mean(kept))
        if agreement >= AGREEMENT or count == size:
            return count, agreement
        if store.identity != "exact" and agreement == before:
            return count // 2, agreement
        count, before = min(2 * count, size), agreement
