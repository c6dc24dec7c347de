"""Leaks between splits: the same video or sentence in the scored split and in another."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gare_cache.annotations.record import SPLITS
from gare_cache.cache.copies import file_digests
from gare_cache.cache.reader import FeatureCache
from gare_cache.data.split import load_frames, videos_with_features
from gare_cache.errors import counted
from gare_cache.evaluation.duplicates import (
    SAME_VIDEO,
    Features,
    NearPairs,
    frame_sequences,
    near_pairs,
    plain_caption,
)
from gare_cache.manifest.tables import Manifest

_LISTED = 20
_BLOCK = 2048  # videos of the other split in memory at a time


def find_leaks(
    cache: FeatureCache, manifest: Manifest, scored: str, *, num_frames: int
) -> dict[str, Any]:
    """Compare the videos and captions of a split with those of the other splits.

    Args:
        cache: the features.
        manifest: assigns videos and captions to splits.
        scored: name of the split.
        num_frames: most frames of a video that are compared, spread evenly over its length.

    Returns:
        JSON-able: for each other split with features, ``copies``: the videos whose file has the
        same bytes, or whose frames have the same features to the last bit; ``near``: the videos
        whose frames, one by one in order, have a mean cosine of at least ``SAME_VIDEO`` with those
        of another; ``captions``: the sentences that stand in both, except for case, spaces and the
        final full stop.
    """
    files = file_digests(cache.tables["video"])
    ids = videos_with_features(cache, manifest, scored)
    sequences, prints = _videos(cache, ids, files, num_frames)
    return {
        other: {
            "split": scored,
            **_same_videos(cache, other_ids, files, num_frames, ids, sequences, prints),
            "captions": _same_captions(manifest, scored, other),
        }
        for other in SPLITS
        if other != scored and (other_ids := videos_with_features(cache, manifest, other))
    }


def describe_copies(leaks: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each split that holds copies of the scored videos."""
    for other, part in leaks.items():
        copies = part["copies"]
        if copies["videos"]:
            mine, theirs = copies["examples"][0]
            yield (
                f"{counted(copies['videos'], part['split'] + ' video', 'have')} copies in "
                f"{other}, the first: {mine} of {theirs}"
            )


def _same_videos(
    cache: FeatureCache,
    other_ids: Sequence[str],
    files: Mapping[str, str],
    num_frames: int,
    ids: Sequence[str],
    sequences: Features,
    prints: Sequence[set[str]],
) -> dict[str, Any]:
    owner: dict[str, str] = {}
    pairs, touched = 0, np.zeros(len(ids), dtype=bool)
    examples: list[tuple[str, str, float]] = []
    for start in range(0, len(other_ids), _BLOCK):
        block = other_ids[start : start + _BLOCK]
        theirs, their_prints = _videos(cache, block, files, num_frames)
        for id_, of_video in zip(block, their_prints, strict=True):
            owner.update((mark, id_) for mark in of_video if mark not in owner)
        near: NearPairs = near_pairs(sequences, SAME_VIDEO, _LISTED, theirs)
        pairs += near.count
        touched |= near.touched
        examples += [(ids[row], block[column], cosine) for row, column, cosine in near.nearest]
    copies = [
        [id_, owner[mark]]
        for id_, of_video in zip(ids, prints, strict=True)
        for mark in sorted(of_video & owner.keys())[:1]
    ]
    return {
        "videos": len(ids),
        "copies": {"videos": len(copies), "examples": copies[:_LISTED]},
        "near": {
            "threshold": SAME_VIDEO,
            "pairs": pairs,
            "videos": int(touched.sum()),
            "examples": sorted(examples, key=lambda pair: -pair[2])[:_LISTED],
        },
    }


def _videos(
    cache: FeatureCache, ids: Sequence[str], files: Mapping[str, str], num_frames: int
) -> tuple[Features, list[set[str]]]:
    """Return unit vectors of the frame sequences, and digests that two copies share."""
    frames, is_real = load_frames(cache, ids, num_frames)
    # As numpy: a torch mask of one frame would be taken for the index 1.
    real, mask = frames.numpy(), is_real.numpy()
    prints = [
        {f"features {hashlib.sha256(real[row, mask[row]].tobytes()).hexdigest()}"}
        | ({f"file {files[id_]}"} if id_ in files else set())
        for row, id_ in enumerate(ids)
    ]
    return frame_sequences(real, mask), prints


def _same_captions(manifest: Manifest, scored: str, other: str) -> dict[str, Any]:
    said: dict[str, Counter[str]] = {scored: Counter(), other: Counter()}
    for row in manifest.captions.select(["split", "caption"]).to_pylist():
        if row["split"] in said:
            said[row["split"]][plain_caption(row["caption"])] += 1
    shared = sorted(said[scored].keys() & said[other].keys(), key=lambda s: (-said[other][s], s))
    return {
        "captions": sum(said[scored][sentence] for sentence in shared),
        "listed": said[scored].total(),
        "examples": [[s, said[scored][s], said[other][s]] for s in shared[:_LISTED]],
    }
