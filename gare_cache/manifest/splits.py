"""Assign videos to splits by a fixed hash of their id where the annotations leave a split out."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from gare_cache.errors import counted

MIN_VIDEOS = 30  # a split of fewer videos tells little: one video is more than three points


def assign_splits(
    annotated: Mapping[str, str | None], *, val_fraction: float, test_fraction: float
) -> dict[str, str]:
    """Return the split of every video.

    A video without an annotated split is placed by the hash of its id, a number in [0, 1): below
    ``test_fraction`` in test, in the next ``val_fraction`` in val, else in train. If splits are
    annotated but none is ``val``, the hash cuts ``val_fraction`` from train. A share above 0 that
    leaves a split with fewer than 30 videos takes the next ones in the order of the hash, up to 30
    or a fifth of the videos to place, whichever is less.

    Args:
        annotated: video id -> ``train``, ``val``, ``test`` or None.
        val_fraction: share of the videos, in [0, 1).
        test_fraction: share of the videos, in [0, 1).
    """
    named = {id_: split for id_, split in annotated.items() if split is not None}
    ordered = sorted((id_ for id_ in annotated if id_ not in named), key=hash_fraction)
    num_test = _num_below(ordered, test_fraction, minimum=_minimum(ordered, test_fraction))
    num_held_out = _num_below(
        ordered,
        test_fraction + val_fraction,
        minimum=num_test + _minimum(ordered, val_fraction),
    )
    hashed = {
        id_: "test" if place < num_test else "val" if place < num_held_out else "train"
        for place, id_ in enumerate(ordered)
    }
    if "train" in named.values() and "val" not in named.values():
        train = sorted((id_ for id_, split in named.items() if split == "train"), key=hash_fraction)
        count = _num_below(train, val_fraction, minimum=_minimum(train, val_fraction))
        named.update(dict.fromkeys(train[:count], "val"))
    return {id_: named.get(id_) or hashed[id_] for id_ in annotated}


def hash_fraction(video_id: str) -> float:
    """Return a number in [0, 1) that depends on the id alone, the same on every machine."""
    return int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8]) / 2**64


def caution_small(split: str, num_videos: int) -> Iterator[str]:
    """Yield a caution if a split that selects or tests has videos, but fewer than 30."""
    if 0 < num_videos < MIN_VIDEOS:
        yield (
            f"{split} has {counted(num_videos, 'video')}: one of them is "
            f"{100 / num_videos:.1f} points of R@1, and differences of that size mean little"
        )


def _num_below(ordered: Sequence[str], fraction: float, *, minimum: int) -> int:
    return max(bisect_left(ordered, fraction, key=hash_fraction), minimum)


def _minimum(ordered: Sequence[str], fraction: float) -> int:
    return min(MIN_VIDEOS, len(ordered) // 5) if fraction else 0
