"""Analysis of a scored split beyond recall: hubness, near-duplicates, the modality gap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.data.split import FeatureSplit
from gare_cache.evaluation.duplicates import (
    SAME_TEXT,
    SAME_VIDEO,
    frame_sequences,
    likely_false_negatives,
    near_pairs,
    same_captions,
    same_text_share,
    unit_rows,
)
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.modality_gap import gap_numbers, gap_plane, matched_pairs
from gare_cache.evaluation.protocol import ProtocolSplit
from gare_cache.evaluation.retrieved import Items, occurrences, skewness
from gare_cache.heads.retrieval import RetrievalHead

HUB_PLACES = (1, 10)
# Lengths of the lists in the analysis; counts always cover everything.
_LISTED = 20
_POINTS = 400
_NO_VECTORS = "it scores a pair without one vector for the text and one for the video"

Similarity = npt.NDArray[np.float32]


def analyse(
    split: ProtocolSplit,
    heads: Mapping[str, RetrievalHead],
    similarities: Mapping[str, Similarity],
    retrieved: Mapping[str, Mapping[str, Items]],
    *,
    scored: str,
) -> dict[str, Any]:
    """Analyse hubness, near-duplicates and the modality gap of a scored split.

    Args:
        split: the scored split.
        heads: by method, on the device of the split.
        similarities: by method, (T, V).
        retrieved: by method and direction, each query's top items.
        scored: the method whose misses are searched for likely false negatives.

    Returns:
        JSON-able: the ids of the similarity's axes, hubness, near-duplicates, modality gap.
    """
    features = split.features
    return {
        "caption_ids": list(features.caption_ids),
        "video_ids": list(features.video_ids),
        "hubness": {
            method: {
                direction: _hubness(by_direction[direction], split, direction)
                for direction in DIRECTIONS
            }
            for method, by_direction in retrieved.items()
        },
        "same_captions": _same_captions(split),
        "near_videos": _near_videos(features),
        "false_negatives": _false_negatives(split, retrieved[scored]["t2v"]),
        "modality_gap": {
            method: _modality_gap(head, split, similarities[method])
            for method, head in heads.items()
        },
    }


def _hubness(retrieved: Items, split: ProtocolSplit, direction: str) -> dict[str, Any]:
    ids = split.features.video_ids if direction == "t2v" else split.features.caption_ids
    truth = split.video_of_text
    # Queries for which an item is true: a video's captions; a caption's single video.
    num_true = (
        np.bincount(truth, minlength=len(ids)) if direction == "t2v" else np.ones(len(ids), int)
    )
    counts = {k: occurrences(retrieved, len(ids), k) for k in HUB_PLACES}
    most = max(HUB_PLACES)
    hubs = np.lexsort((np.arange(len(ids)), -counts[1], -counts[most]))[:_LISTED]
    return {
        "queries": len(retrieved),
        "items": len(ids),
        "skewness": {str(k): skewness(counts[k]) for k in HUB_PLACES},
        "never": {str(k): int((counts[k] == 0).sum()) for k in HUB_PLACES},
        "counts": {str(k): counts[k].tolist() for k in HUB_PLACES},
        "hubs": [
            {
                "id": ids[item],
                "own": int(num_true[item]),
                **{f"at {k}": int(counts[k][item]) for k in HUB_PLACES},
            }
            for item in hubs
        ],
    }


def _same_captions(split: ProtocolSplit) -> dict[str, Any]:
    features = split.features
    groups = same_captions(features.captions, split.video_of_text)
    return {
        "groups": len(groups),
        "captions": sum(map(len, groups)),
        "examples": [[features.caption_ids[row] for row in rows] for rows in groups[:_LISTED]],
    }


def _near_videos(features: FeatureSplit) -> dict[str, Any]:
    sequences = frame_sequences(features.frames.cpu().numpy(), features.mask.cpu().numpy())
    near = near_pairs(sequences, SAME_VIDEO, _LISTED)
    ids = features.video_ids
    return {
        "threshold": SAME_VIDEO,
        "pairs": near.count,
        "videos": int(near.touched.sum()),
        "examples": [[ids[first], ids[second], cosine] for first, second, cosine in near.nearest],
    }


def _false_negatives(split: ProtocolSplit, retrieved: Items) -> dict[str, Any]:
    features = split.features
    text = unit_rows(features.text.cpu().numpy())
    suspects = likely_false_negatives(retrieved[:, 0], text, split.video_of_text)
    return {
        "threshold": SAME_TEXT,
        "queries": len(suspects),
        "misses": int((retrieved[:, 0] != split.video_of_text).sum()),
        "base_rate": same_text_share(text, split.video_of_text),
        "examples": [
            {
                "query_id": features.caption_ids[suspect.text],
                "video_id": features.video_ids[suspect.video],
                "nearest_caption_id": features.caption_ids[suspect.nearest_text],
                "cosine": suspect.cosine,
            }
            for suspect in suspects[:_LISTED]
        ],
    }


def _modality_gap(
    head: RetrievalHead, split: ProtocolSplit, similarity: Similarity
) -> dict[str, Any]:
    if not head.compares_vectors:
        return {"left_out": _NO_VECTORS}
    features = split.features
    pairs = matched_pairs(
        head,
        features.text,
        features.frames,
        features.mask,
        features.video_of_text,
        words=features.words_of if head.needs_words else None,
    )
    plane = gap_plane(pairs)
    rows = np.arange(len(similarity))
    shown = np.linspace(0, len(rows) - 1, min(len(rows), _POINTS)).round().astype(np.int64)
    true = similarity[rows, split.video_of_text].astype(np.float64)  # (T,)
    others = similarity.size - len(rows)
    unmatched = (similarity.sum(dtype=np.float64) - true.sum()) / others if others else None
    return {
        **gap_numbers(pairs),
        "side": pairs.side,
        "unmatched_cosine": None if unmatched is None else float(unmatched),
        "pairs": len(rows),
        "second_share": plane.second_share,
        "points": {
            name: points[shown].astype(np.float64).round(4).tolist()
            for name, points in plane.points.items()
        },
    }
