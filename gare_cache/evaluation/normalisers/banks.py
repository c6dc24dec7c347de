"""Banks: training items scored against a gallery with the evaluated head."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gare_cache.data.split import FeatureSplit
from gare_cache.evaluation.normalisers.apply import Banks
from gare_cache.evaluation.normalisers.registry import GALLERY_BANK, QUERY_BANK
from gare_cache.evaluation.similarity import Similarity, score_split
from gare_cache.heads.masking import mean_pool
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.heads.scoring import blocks

_VIDEOS_AT_ONCE = 256


@dataclass(frozen=True)
class TrainingItems:
    """The texts and videos of the banks, both from the training split.

    Attributes:
        texts: a split whose captions are the texts.
        videos: a split whose videos are the videos.
    """

    texts: FeatureSplit
    videos: FeatureSplit


def draw_items(split: FeatureSplit, *, size: int | None, seed: int) -> TrainingItems:
    """Draw the texts and the videos of the banks, independently of each other.

    Args:
        split: the training split.
        size: how many of each, or all if there are fewer; None takes all.
        seed: random seed of the choice.
    """
    if size is None:
        return TrainingItems(split, split)
    generator = np.random.default_rng(seed)
    texts, videos = (
        np.sort(generator.permutation(count)[:size]).tolist()
        for count in (len(split.caption_ids), len(split.video_ids))
    )
    kept = torch.tensor(videos, device=split.frames.device)
    return TrainingItems(
        texts=split.with_texts(texts, num_listed=len(texts)),
        videos=replace(
            split,
            video_ids=[split.video_ids[row] for row in videos],
            frames=split.frames[kept],
            mask=split.mask[kept],
        ),
    )


def make_banks(
    head: RetrievalHead, items: TrainingItems, gallery: FeatureSplit, wanted: Collection[str]
) -> dict[str, Banks]:
    """Score training items against a split, with the head's own scale s.

    Text to video has training texts as queries and the split's videos as gallery, video to text
    training videos as queries and the split's texts as gallery; both use the head's score of the
    pair. The gallery bank compares items of one kind, for which a head has no score: it holds s
    times the cosine of the projected texts, or of the means over the aggregated real frames.

    Args:
        head: on the device of the splits.
        items: of the training split.
        gallery: the scored split.
        wanted: ``queries``, ``gallery`` or both.

    Returns:
        By direction, float32; banks that are not wanted are None.
    """
    scale = float(head.scale.detach())
    queries: dict[str, Similarity] = {}
    others: dict[str, Similarity] = {}
    if QUERY_BANK in wanted:
        against_videos = replace(items.texts, frames=gallery.frames, mask=gallery.mask)
        against_texts = replace(gallery, frames=items.videos.frames, mask=items.videos.mask)
        queries["t2v"] = scale * score_split(head, against_videos)
        queries["v2t"] = scale * score_split(head, against_texts).T
    if GALLERY_BANK in wanted:
        others["t2v"] = scale * _cosines(
            _video_vectors(head, items.videos), _video_vectors(head, gallery)
        )
        others["v2t"] = scale * _cosines(
            _text_vectors(head, items.texts), _text_vectors(head, gallery)
        )
    return {d: Banks(queries.get(d), others.get(d)) for d in ("t2v", "v2t")}


@torch.no_grad()
def _text_vectors(head: RetrievalHead, split: FeatureSplit) -> Tensor:
    return head.encode_text(split.text)


@torch.no_grad()
def _video_vectors(head: RetrievalHead, split: FeatureSplit) -> Tensor:
    means = [
        mean_pool(head.encode_frames(split.frames[rows], split.mask[rows]), split.mask[rows])
        for rows in blocks(len(split.frames), _VIDEOS_AT_ONCE)
    ]
    return torch.cat(means)  # (V, D)


def _cosines(items: Tensor, gallery: Tensor) -> Similarity:
    unit = [torch.nn.functional.normalize(vectors, dim=1) for vectors in (items, gallery)]
    cosines: Similarity = (unit[0] @ unit[1].T).cpu().numpy()  # (N, G)
    return cosines
