"""Near-duplicate test items: retrieving one counts as a miss although it is arguably right."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gare_cache.heads.scoring import blocks

# Least cosine at which two items count as near-duplicates; shown beside every count.
SAME_VIDEO = 0.99
SAME_TEXT = 0.95

Features = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_BLOCK = 512
_SAMPLED_TEXTS = 2000


@dataclass(frozen=True)
class NearPairs:
    """Pairs of items whose cosine reaches a threshold.

    Attributes:
        count: number of pairs.
        touched: (N,) True where an item is in at least one pair.
        nearest: (row, row, cosine) of the nearest pairs, nearest first.
    """

    count: int
    touched: npt.NDArray[np.bool_]
    nearest: Sequence[tuple[int, int, float]]


@dataclass(frozen=True)
class LikelyFalseNegative:
    """A query whose top-ranked video is not its own, but has a near-duplicate caption.

    Attributes:
        text: row of the query.
        video: the top-ranked video.
        nearest_text: row of that video's nearest caption.
        cosine: of the two captions' features.
    """

    text: int
    video: int
    nearest_text: int
    cosine: float


def same_captions(captions: Sequence[str], video_of_text: Rows) -> list[list[int]]:
    """Group captions of different videos that differ in case, spaces and final ``.!`` at most.

    Returns:
        Rows of each group that spans at least two videos, the largest group first.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row, caption in enumerate(captions):
        groups[plain_caption(caption)].append(row)
    shared = [rows for rows in groups.values() if len({int(video_of_text[r]) for r in rows}) > 1]
    return sorted(shared, key=lambda rows: (-len(rows), rows[0]))


def plain_caption(caption: str) -> str:
    """Return a caption without case, repeated spaces and final ``.!``."""
    plain = " ".join(unicodedata.normalize("NFKC", caption).casefold().split())
    return plain.rstrip(" .!")


def frame_sequences(frames: Features, mask: npt.NDArray[np.bool_]) -> Features:
    """Concatenate each video's frames to one unit vector, so that their order counts.

    A video of n frames is stretched to F by repeating the nearest frame; every frame is scaled to
    length 1. The product of two rows is the mean cosine of their frames at the same place.

    Args:
        frames: (V, F, D).
        mask: (V, F) True on real frames, which come first; every video has at least one.

    Returns:
        (V, F * D).
    """
    num_videos, num_frames = mask.shape
    place = (np.arange(num_frames) + 0.5) / num_frames
    source = (place * mask.sum(axis=1)[:, None]).astype(np.int64)  # (V, F)
    stretched = unit_rows(frames[np.arange(num_videos)[:, None], source])  # (V, F, D)
    return stretched.reshape(num_videos, -1) / np.float32(np.sqrt(num_frames))  # (V, F * D)


def near_pairs(
    features: Features, threshold: float, most: int, others: Features | None = None
) -> NearPairs:
    """Find the pairs of rows whose cosine reaches a threshold.

    Args:
        features: (N, D) unit rows.
        threshold: the least cosine.
        most: how many pairs are returned; all are counted.
        others: (M, D) unit rows, the second of each pair; None pairs the rows with each other.
    """
    second_rows = features if others is None else others
    count, touched, nearest = 0, np.zeros(len(features), dtype=bool), []
    for part in blocks(len(features), _BLOCK):
        near = (cosines := features[part] @ second_rows.T) >= threshold  # (block, M)
        if others is None:
            near = np.triu(near, k=part.start + 1)
        first, second = np.nonzero(near)
        of_pair = cosines[first, second]  # (pairs,)
        first = first + part.start
        count += len(first)
        touched[first] = True
        if others is None:
            touched[second] = True
        kept = np.lexsort((second, first, -of_pair))[:most]
        columns = (values[kept].tolist() for values in (first, second, of_pair))
        nearest += list(zip(*columns, strict=True))
        nearest = sorted(nearest, key=lambda pair: (-pair[2], pair[0], pair[1]))[:most]
    return NearPairs(count, touched, nearest)


def likely_false_negatives(
    first_video: Rows, text: Features, video_of_text: Rows, threshold: float = SAME_TEXT
) -> list[LikelyFalseNegative]:
    """Find the queries whose top-ranked video is false but has a near-duplicate caption.

    Args:
        first_video: (T,) top-ranked video of each text.
        text: (T, D) unit rows of the frozen encoder, not of the scored head.
        video_of_text: (T,) each text's own video.
        threshold: the least cosine of the query and a caption of that video.

    Returns:
        The nearest first; a video without captions never counts.
    """
    texts_of = _texts_of(video_of_text)
    suspects = []
    for row in np.flatnonzero(first_video != video_of_text):
        captions = texts_of.get(int(first_video[row]))
        if captions is None:
            continue
        cosines = text[captions] @ text[row]  # (captions of the video,)
        best = int(cosines.argmax())
        if cosines[best] >= threshold:
            video, nearest = int(first_video[row]), int(captions[best])
            suspects.append(LikelyFalseNegative(int(row), video, nearest, float(cosines[best])))
    return sorted(suspects, key=lambda suspect: (-suspect.cosine, suspect.text))


def same_text_share(
    text: Features, video_of_text: Rows, threshold: float = SAME_TEXT
) -> float | None:
    """Return the share of (caption, other video) pairs with a near-duplicate caption.

    The base rate beside ``likely_false_negatives``: how often a caption of the other video reaches
    the threshold, over at most 2,000 evenly spaced captions.

    Returns:
        A share in [0, 1]; None where there is only one video.
    """
    videos = np.unique(video_of_text)
    if len(videos) < 2:
        return None
    count = min(len(text), _SAMPLED_TEXTS)
    rows = np.linspace(0, len(text) - 1, count).round().astype(np.int64)
    order = np.argsort(video_of_text, kind="stable")
    starts = np.searchsorted(video_of_text[order], videos)
    above = 0
    for part in blocks(count, _BLOCK):
        best = np.maximum.reduceat(text[rows[part]] @ text[order].T, starts, axis=1)  # (block, V)
        best[videos[None] == video_of_text[rows[part], None]] = -1
        above += int((best >= threshold).sum())
    return above / (count * (len(videos) - 1))


def unit_rows(features: Features) -> Features:
    """Scale vectors (..., D) to length 1; a zero vector stays zero."""
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)  # (..., 1)
    scaled: Features = (features / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def _texts_of(video_of_text: Rows) -> dict[int, Rows]:
    order = np.argsort(video_of_text, kind="stable")
    videos, starts = np.unique(video_of_text[order], return_index=True)
    return dict(zip(videos.tolist(), np.split(order, starts[1:]), strict=True))
